"""README.md and CONTRIBUTING.md tell the truth: commands run on a short budget, and paths, flags and files exist."""

import os
import re
from pathlib import Path

import program
import pytest
from photos import ONE, SEVEN, class_folders, write_on, written
from PIL import Image
from program import ROOT

from src.cli.keys import GROUPS, check_keys
from src.data.datasets import DATASETS
from src.errors import InputError

PAGES = {
    name: (ROOT / name).read_text()
    for name in ("README.md", "CONTRIBUTING.md", "benchmarks/ablation.md")
}
README = PAGES["README.md"]
BLOCKS = re.findall(
    r"```(bash|console)\n(.*?)```", README, re.DOTALL
)  # in the order of the page: later ones build on
SHOWN = [(kind, line) for kind, block in BLOCKS for line in block.splitlines()]
TYPED = [line.removeprefix("$ ") for kind, line in SHOWN if kind == "bash" or line.startswith("$ ")]
LINES = [line.split("#")[0].strip() for line in TYPED]
COMMANDS = [
    line for line in LINES if line.startswith(("python ", ".venv/bin/python ", "python -m venv"))
]
SHORT = [
    "--trainer.limit_train_batches",
    "4",
    "--trainer.limit_val_batches",
    "1",
    "--trainer.limit_test_batches",
    "1",
]
HAS_MNIST = (ROOT / "data" / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").is_file()
MADE_BY_A_RUN = {"config.yaml", "hparams.yaml"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """The tracked files by link, MNIST if it is there, photos, and runs of the digits and of a tiny CIFAR-100."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("src", "configs", "benchmarks", "train.py", "classify.py"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "data").mkdir()
    if HAS_MNIST:
        (folder / "data" / "MNIST").symlink_to(ROOT / "data" / "MNIST")
    class_folders(folder / "photos", ("cat", "dog"), (40, 50), "jpg", train=8, test=8)
    for path in (folder / "photos").rglob("*.jpg"):  # they are classified as photos of digits, too
        picture = Image.open(path)
        write_on(picture, SEVEN, 4, "white")
        picture.save(path)
    written(ONE, (60, 60), 5).save(folder / "photo.png")
    class_folders(
        folder / "data" / "cifar100", DATASETS["cifar100"].classes, (32, 32), train=20, test=1
    )
    run("python train.py --config configs/cifar100_cpu.yaml", folder)
    run("python train.py --config configs/digits.yaml", folder)  # what the install command does
    return folder


def run(command: str, folder: Path) -> program.Ended:
    """Run a command of the README as it stands, trainings cut to four batches of one epoch (two when resumed)."""
    script, *arguments = command.removeprefix(".venv/bin/").removeprefix("python ").split()
    if script == "-m":
        script = arguments.pop(0).replace(".", "/") + ".py"
    if script == "train.py" and not {"--help", "--print_config"} & set(arguments):
        epochs = "2" if "--resume" in arguments else "1"
        arguments += [*SHORT, "--trainer.max_epochs", epochs]
    return program.Running(*arguments, script=script, prepare=(os.chdir, folder)).end()


def test_the_readme_has_commands():
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if not re.search("-m venv|-m benchmarks|--serve", c)]
)
def test_command_runs(command, checkout):
    default_is_mnist = (
        command in ("python train.py", "python train.py --resume") or "configs/mnist" in command
    )
    if default_is_mnist and not HAS_MNIST:
        pytest.skip("needs the real MNIST under data/")
    if re.search("cifar10(?!0)", command) and not (ROOT / "data" / "cifar10").is_dir():
        pytest.skip("needs the real CIFAR-10 under data/")
    ended = run(command, checkout)
    assert ended.code == 0, ended
    assert ended.out
    assert "Traceback" not in ended.err


def test_the_test_command_is_the_one_of_the_gate():
    (line,) = [line for line in LINES if line.endswith("-m pytest")]
    gate = (ROOT / ".ci" / "run").read_text()
    assert line.split("&& ")[1].split("/bin/")[1] in gate
    assert "requirements-dev.txt" in line and "requirements-dev.txt" in gate


def test_contributing_names_every_check_of_the_gate():
    gate = re.findall(r"/bin/((?:ruff|python -m pytest).*)", (ROOT / ".ci" / "run").read_text())
    assert len(gate) == 3 and not [
        command for command in gate if command not in PAGES["CONTRIBUTING.md"]
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_it_names_exists(page):
    code = re.findall(r"`([^`\n]+)`", PAGES[page])
    words = {word for text in code for word in text.split()} | set(
        re.findall(r"\]\(([\w./-]+)\)", PAGES[page])
    )
    paths = {
        w
        for w in words
        if re.fullmatch(r"(src|configs|benchmarks|tests|\.ci)/[\w./-]*|[\w-]+\.(py|md)", w)
    }
    paths |= {
        f"configs/{w}" for w in words if re.fullmatch(r"\w+\.yaml", w) and w not in MADE_BY_A_RUN
    }
    assert len(paths) >= 5
    assert not [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_every_benchmark_that_it_names_exists(page):
    names = set(re.findall(r"python -m benchmarks\.(\w+)", PAGES[page]))
    assert names and not [
        name for name in names if not (ROOT / "benchmarks" / f"{name}.py").is_file()
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_that_it_names_is_a_key(page):
    lines = [
        line for line in PAGES[page].splitlines() if "elastic" not in line
    ]  # a setting of older commits
    flags = set(re.findall(r"--(?:model|data)\.[\w.]*\w", "\n".join(lines)))
    flags.discard("--data.augment.shift")  # which the page says is an older name
    assert not [flag for flag in flags if not is_key(flag)]


def is_key(flag: str) -> bool:
    """Whether any model or dataset has this key."""
    for model in GROUPS["model"]:
        for data in GROUPS["data"]:
            try:
                check_keys({"model": model, "data": data}, [flag], [])
                return True
            except InputError:
                pass
    return False


def test_the_map_names_every_file_of_src_in_the_room_where_it_is():
    (table,) = re.findall(r"^## The files.*?(?=^## )", README, re.DOTALL | re.MULTILINE)
    paths = [
        cell
        for cell in re.findall(r"^\| \**`([^`]+)`", table, re.MULTILINE)
        if cell.startswith("src/")
    ]
    files = [path.relative_to(ROOT) for path in (ROOT / "src").rglob("*.py") if path.stat().st_size]
    assert sorted(path for path in paths if path.endswith(".py")) == sorted(map(str, files))
    rooms = [path for path in paths if path.endswith("/")]
    room_of_each = [str(Path(path).parent) + "/" for path in paths if path.endswith(".py")]
    assert list(dict.fromkeys(room_of_each)) == rooms
