"""Test that commands in the Markdown pages run, and that paths, links and flags exist."""

import functools
import os
import re
import shlex
from pathlib import Path

import program
import pytest
import yaml
from photos import ONE, SEVEN, class_folders, write_on, written
from PIL import Image
from program import ROOT

DOCS = sorted(ROOT.glob("docs/*.md"))
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS)
}
README = PAGES["README.md"]
MNIST = ROOT / "data" / "MNIST"

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(\S*python|torchrun) .*")
NOT_RUN = re.compile(
    r"-m (venv|pytest|benchmarks)|--serve|torchrun|--trainer.devices|data/cifar100"
)
# Flags that only old commits have; ablation.md mentions them.
FORMER_FLAGS = {
    "--data.augment.shift",
    "--data.augment.elastic",
}


def shown_commands(text: str) -> list[str]:
    """Return the commands in a page's code blocks, in order."""
    commands = []
    for language, block in BLOCK.findall(text):
        lines = block.replace("\n  --", " --").splitlines()
        if language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        for line in lines:
            commands += commands_in(line.split("#")[0])
    return commands


def commands_in(line: str) -> list[str]:
    parts = line.replace(".venv/bin/", "").split("&&")
    stripped = [part.strip() for part in parts]
    return [part for part in stripped if COMMAND.fullmatch(part)]


def inline_code(text: str) -> list[str]:
    """Return the inline code spans of a page, with line breaks removed."""
    prose = BLOCK.sub("", text)
    found = re.findall(r"`([^`]+)`", prose)
    return [" ".join(code.split()) for code in found]


def split_command(command: str) -> tuple[str, list[str]]:
    """Split a command into the project script that it runs ("" if none) and its arguments."""
    words = shlex.split(command)
    if words[0] == "torchrun":
        words = words[words.index("train.py") - 1 :]
    if words[1].endswith(".py"):
        return words[1], words[2:]
    module = words[2].replace(".", "/")
    if not module.startswith(("src/", "benchmarks/", "examples/")):
        return "", []
    package = (ROOT / module).is_dir()
    script = f"{module}/__main__.py" if package else f"{module}.py"
    return script, words[3:]


# Running commands --------------------------------------------------------------------------------

SHOWN = [command for text in PAGES.values() for command in shown_commands(text)]
RUN = [command for command in dict.fromkeys(SHOWN) if not NOT_RUN.search(command)]
RUN.remove("python train.py")  # needs MNIST
TRAIN = "python train.py --config configs/digits.yaml"


SHORT = [
    "--trainer.limit_train_batches=4",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
]


@functools.cache
def run(command: str, folder: Path) -> program.Ended:
    """Run a command in `folder`, with at most four training batches per epoch.

    Training takes one epoch, or two with `--resume`.
    """
    script, arguments = split_command(command)
    if script == "train.py" and not re.search("help|--print_config", command):
        epochs = 2 if "--resume" in arguments else 1
        pictures = command == TRAIN
        arguments += SHORT
        arguments += [f"--trainer.max_epochs={epochs}", f"--pictures={pictures}"]
    running = program.Running(*arguments, script=script, prepare=(os.chdir, folder))
    return running.end()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """Return a folder that contains the programs, photos and runs that the pages use."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("src", "configs", "benchmarks", "examples", "train.py", "classify.py"):
        (folder / name).symlink_to(ROOT / name)
    data = folder / "data"
    data.mkdir()
    if MNIST.is_dir():
        (data / "MNIST").symlink_to(MNIST)
    write_photos(folder)
    # `run` keeps the output of the first --resume, which finishes the run.
    for command in (f"{TRAIN} --name mnist", TRAIN, f"{TRAIN} --resume"):
        ended = run(command, folder)
        assert ended.code == 0, ended
    return folder


def write_photos(folder: Path) -> None:
    """Write class folders in which every image shows a digit, and a photo of a digit."""
    class_folders(folder / "photos", ("cat", "dog"), (40, 50), "jpg", train=8, test=8)
    for path in (folder / "photos").rglob("*.jpg"):
        picture = Image.open(path)
        write_on(picture, SEVEN, 4, "white")
        picture.save(path)
    photo = written(ONE, (60, 60), 5)
    photo.save(folder / "photo.png")


@pytest.mark.parametrize("command", RUN)
def test_command_runs(command, checkout):
    ended = run(command, checkout)
    assert ended.code == 0, ended
    assert ended.out
    assert "Traceback" not in ended.err


def test_the_readme_shows_what_is_printed(checkout):
    """Run the commands on the digits dataset, and compare their output, ignoring numbers."""
    blocks = BLOCK.findall(README)
    consoles = [block for language, block in blocks if language == "console"]
    commands = (
        TRAIN,
        "python classify.py --index 0",
        f"{TRAIN} --resume",
    )
    for block, command in zip(consoles, commands, strict=True):
        shown = block.splitlines()[1:]
        ended = run(command, checkout)
        printed = {without_values(line) for line in ended.out.splitlines()}
        for line in shown:
            assert line == "..." or without_values(line) in printed


def without_values(line: str) -> str:
    line = line.replace(f"python {ROOT}/", "python ")  # printed outside of the checkout
    line = re.sub(r"32-true|bf16-mixed", "precision", line)
    line = re.sub(r"\b(mnist|digits)\b", "dataset", line)
    line = re.sub(r"\d[\d.,]*%?", "#", line)
    line = line.replace("epochs", "epoch").replace("█", "")
    return " ".join(line.split())


def test_the_library_example_runs(tmp_path):
    ((language, code),) = BLOCK.findall(PAGES["docs/library.md"])
    script = tmp_path / "example.py"
    script.write_text(code)
    running = program.Running(script=str(script), prepare=(os.chdir, tmp_path))
    ended = running.end()
    assert ended.code == 0, ended


# References ---------------------------------------------------------------------------------------


@functools.cache
def help_of(script: str) -> str:
    return program.Running("--help", script=script).end().out


@pytest.mark.parametrize("page", PAGES)
def test_every_command_exists(page):
    text = PAGES[page]
    commands = shown_commands(text)
    for code in inline_code(text):
        commands += commands_in(code)
    for command in commands:
        script, arguments = split_command(command)
        assert not script or (ROOT / script).is_file(), command
        for flag in filter(re.compile(r"--[\w-]+").fullmatch, arguments):  # not dotted flags
            assert re.search(rf"{flag}\b", help_of(script)), command


@pytest.fixture(scope="module")
def train_flags() -> set[str]:
    """Return the flags of all data, model and trainer settings."""
    flags = {"--model.help", "--data.help"}
    for config in ("configs/mnist.yaml", "configs/folder.yaml"):
        printed = program.train("--config", config, "--print_config")
        flags |= flags_of(yaml.safe_load(printed.out))
    return flags


def flags_of(tree: dict, prefix: str = "--") -> set[str]:
    flags = set()
    for key, value in tree.items():
        flags.add(prefix + key)
        if isinstance(value, dict):
            below = prefix if key == "init_args" else f"{prefix}{key}."
            flags |= flags_of(value, below)
    return flags


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_of_train_exists(page, train_flags):
    named = re.findall(r"--(?:model|data|trainer)\.[\w.]*\w", PAGES[page])
    assert set(named) - train_flags - FORMER_FLAGS == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_path_exists(page):
    folder = r"(src|configs|benchmarks|tests|docs|examples|\.ci)/[\w./-]*"
    file = r"[\w-]+\.(py|md)"
    config = r"\w+\.yaml"
    for word in " ".join(inline_code(PAGES[page])).split():
        if re.fullmatch(f"{folder}|{file}", word):
            assert (ROOT / word).exists(), word
        if re.fullmatch(config, word) and word != "config.yaml":
            assert (ROOT / "configs" / word).exists(), word


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", PAGES[page])
    for link, anchor in links:
        target = (ROOT / page).parent / link if link else ROOT / page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE)
            assert anchor in map(anchor_of, headings)


def anchor_of(heading: str) -> str:
    """Return the GitHub anchor of a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.lower())
    return kept.replace(" ", "-")


def test_the_index_lists_every_page():
    linked = re.findall(r"\]\(([\w-]+\.md)\)", PAGES["docs/index.md"])
    pages = {path.name for path in DOCS}
    assert set(linked) == pages - {"index.md"}


def test_the_architecture_lists_every_file_once():
    table = PAGES["docs/architecture.md"]
    listed = re.findall(r"^\| `([\w/.]+\.py)`", table, re.MULTILINE)
    files = [path for path in ROOT.glob("src/**/*.py") if path.stat().st_size]
    assert sorted(listed) == sorted(str(path.relative_to(ROOT)) for path in files)
