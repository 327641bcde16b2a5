"""The rows that need a GPU, tried on the CPU: killed in the middle and started again they end with the whole table."""

import multiprocessing
import time
from types import SimpleNamespace

import pytest
import torch
from photos import class_folders
from program import Running
from pytorch_lightning.callbacks import Timer

from benchmarks.gpu import BEGIN, END, Bench, row_names
from src.data.datasets import DATASETS


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    class_folders(folder / "cifar10", DATASETS["cifar10"].classes, (32, 32), train=4, test=1)
    class_folders(folder / "cifar100", DATASETS["cifar100"].classes, (32, 32), train=2, test=1)
    return folder


def start(*flags, prepare=()):
    return Running(*flags, script="benchmarks/gpu.py", prepare=prepare)


def by_forks() -> None:
    """For `prepare`: the trainings are forks of the program itself, which cost no second import of PyTorch."""
    forks = multiprocessing.get_context("fork")
    forks.set_forkserver_preload = lambda modules: None
    multiprocessing.get_context = lambda method: forks


def rows(page):
    """The table of the page: {row: {column: cell}}."""
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in page.read_text().splitlines()
        if "|" in line
    ]
    return {line[0]: dict(zip(lines[0][1:], line[1:], strict=True)) for line in lines[2:]}


def test_gpu_killed_in_the_middle_and_started_again_it_ends_with_the_whole_table(root, tmp_path):
    flags = [
        "--dry-run",
        "--root",
        root,
        "--runs",
        tmp_path,
        "--rows",
        "cifar100",
        "cifar10_finetune",
    ]
    checkpoint, killed = (
        tmp_path / "cifar100" / "version_0" / "checkpoints" / "last.ckpt",
        start(*flags),
    )
    while not checkpoint.exists() and killed.process.is_alive():
        time.sleep(0.002)
    killed.process.kill()
    ended = killed.end()
    assert ended.code == -9 and not (tmp_path / "cifar10_finetune").exists(), ended

    again = start(*flags, prepare=(by_forks,)).end()
    assert again.code == 0, again
    assert sorted(path.name for path in tmp_path.glob("*/version_*")) == ["version_0"] * 2, (
        "it went on with the run"
    )
    table = rows(tmp_path / "gpu.md")
    version = torch.__version__.split("+")[0]
    for name in ("cifar100", "cifar10_finetune"):
        assert table[name]["passes"] == "2" and table[name]["versions"] == f"torch {version}"
        assert float(table[name]["accuracy"]) <= 0.5 and float(table[name]["images/s"]) > 0
    assert table["cifar100, to 0.75 on validation images"]["accuracy"] == "not reached"
    assert {
        "cifar10",
        "cifar10_best",
        "ViT-Ti, 32 px, timm, eager",
        "cifar10_fast, train.py",
    } <= table.keys()
    assert set(table["cifar10_best"].values()) == {"-"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_gpu_without_one_one_line_says_so():
    assert (
        start("--rows", "speed")
        .end()
        .error.startswith("error: there is no CUDA device here; use --dry-run")
    )


def test_gpu_without_time_leaves_every_row_as_it_is(tmp_path):
    ended = start("--dry-run", "--runs", tmp_path, "--hours", 0).end()
    assert ended.code == 0 and "The time is over" in ended.out
    table = rows(tmp_path / "gpu.md")
    assert list(table) == row_names() and all(
        set(cells.values()) == {"-"} for cells in table.values()
    )


@pytest.mark.parametrize("hours", [0.01, 1.5, 30.5])
def test_gpu_tells_a_training_how_much_time_is_left(hours, tmp_path):
    bench = Bench(SimpleNamespace(dry_run=True, root="data", runs=tmp_path, hours=hours))
    flag, value = bench.max_time()
    assert flag == "--trainer.max_time"
    assert Timer(duration=value).time_remaining() == pytest.approx(3600 * hours, abs=10)


def test_gpu_page_keeps_what_stands_around_the_table(tmp_path):
    bench = Bench(SimpleNamespace(dry_run=True, root="data", runs=tmp_path, hours=1))
    bench.page.write_text(f"above\n{BEGIN}an old table\n{END}below\n")
    bench.add("cifar10", {"passes": "3, not finished"})
    text = bench.page.read_text()
    assert text.startswith("above\n") and text.endswith("below\n") and "an old table" not in text
    assert rows(bench.page)["cifar10"]["passes"] == "3, not finished"
    again = Bench(SimpleNamespace(dry_run=True, root="data", runs=tmp_path, hours=1))
    assert again.table() == bench.table()
