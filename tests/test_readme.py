"""Every command of the README runs, on a short budget, in a folder that is like a fresh checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from photos import class_folders

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(bash|console)\n(.*?)```", README, re.DOTALL)  # in the order of the page: later ones build on
SHOWN = [(kind, line) for kind, block in BLOCKS for line in block.splitlines()]
TYPED = [line.removeprefix("$ ") for kind, line in SHOWN if kind == "bash" or line.startswith("$ ")]
LINES = [line.split("#")[0].strip() for line in TYPED]
COMMANDS = [line for line in LINES if line.startswith(("python ", ".venv/bin/python ", "python -m venv"))]
SHORT = ["--trainer.limit_train_batches", "4", "--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1"]
HAS_MNIST = (ROOT / "data" / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").is_file()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """The tracked files by link, an empty data folder (but for MNIST), a folder of photos, and a photo."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("src", "configs", "benchmarks", "train.py", "classify.py"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "data").mkdir()
    if HAS_MNIST:
        (folder / "data" / "MNIST").symlink_to(ROOT / "data" / "MNIST")
    class_folders(folder / "photos", ("cat", "dog"), (40, 50), "jpg", train=8, test=8)
    shutil.copy(folder / "photos" / "train" / "cat" / "0.jpg", folder / "photo.png")
    run("python train.py --config configs/digits.yaml", folder)  # what the install command does
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a command of the README as it stands, trainings cut to four batches of one epoch (two when resumed)."""
    arguments = command.removeprefix(".venv/bin/").split()
    if "train.py" in arguments and not {"--help", "--print_config"} & set(arguments):
        epochs = "2" if "--resume" in arguments else "1"
        arguments += [*SHORT, "--trainer.max_epochs", epochs]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=180
    )


def test_the_readme_has_commands():
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize("command", [c for c in COMMANDS if "-m venv" not in c and "-m benchmarks" not in c])
def test_command_runs(command, checkout):
    default_is_mnist = command in ("python train.py", "python train.py --resume") or "configs/mnist" in command
    if default_is_mnist and not HAS_MNIST:
        pytest.skip("needs the real MNIST under data/")
    if "cifar10" in command and not (ROOT / "data" / "cifar10").is_dir():
        pytest.skip("needs the real CIFAR-10 under data/")
    result = run(command, checkout)
    assert result.returncode == 0, result.stderr
    assert result.stdout
    assert "Traceback" not in result.stderr


def test_the_test_command_is_the_one_of_the_gate():
    (line,) = [line for line in LINES if line.endswith("-m pytest")]
    gate = (ROOT / ".ci" / "run").read_text()
    assert line.split("&& ")[1].split("/bin/")[1] in gate
    assert "requirements-dev.txt" in line and "requirements-dev.txt" in gate


def test_every_path_named_in_the_readme_exists():
    paths = set(re.findall(r"`((?:src|configs|benchmarks)/[\w./]*)`", README))
    assert len(paths) > 10
    assert not [path for path in paths if not (ROOT / path).exists()]
