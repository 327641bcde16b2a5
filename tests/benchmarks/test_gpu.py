"""Test the GPU benchmark on the CPU: interruption, and the table that it writes."""

import multiprocessing
import time
from types import SimpleNamespace

import pytest
import torch
from photos import class_folders
from program import Running

from benchmarks.gpu import BEGIN, COLUMNS, END, Bench
from src.data.datasets import DATASETS


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, images in (("cifar10", 4), ("cifar100", 2)):
        classes = DATASETS[name].classes
        class_folders(folder / name, classes, (32, 32), train=images, test=1)
    return folder


def start(flags, prepare=()):
    return Running(*flags.split(), script="benchmarks/gpu.py", prepare=prepare)


def bench(runs):
    return Bench(SimpleNamespace(dry_run=True, root="data", runs=runs))


def fork() -> None:
    """Start training runs by forking this process, so that they do not import PyTorch again."""
    context = multiprocessing.get_context("fork")
    context.set_forkserver_preload = lambda modules: None
    multiprocessing.get_context = lambda method: context


def rows(page):
    """Return the table on a page as {row: {column: cell}}."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {name: dict(zip(COLUMNS, cells, strict=True)) for name, *cells in table}


def test_gpu_continues_after_a_kill(root, tmp_path):
    flags = f"--dry-run --root {root} --runs {tmp_path} --rows cifar100 cifar10_finetune"
    checkpoint = tmp_path / "cifar100" / "version_0" / "checkpoints" / "last.ckpt"
    killed = start(flags)
    while not checkpoint.exists() and killed.process.is_alive():
        time.sleep(0.002)
    killed.process.kill()
    ended = killed.end()
    assert ended.code == -9, ended
    assert not (tmp_path / "cifar10_finetune").exists()

    again = start(flags, prepare=(fork,)).end()
    assert again.code == 0, again
    runs = [path.name for path in tmp_path.glob("*/version_*")]
    assert runs == ["version_0"] * 2, "the run was resumed"
    table = rows(tmp_path / "gpu.md")
    version = torch.__version__.split("+")[0]
    for name in ("cifar100", "cifar10_finetune"):
        assert table[name]["epochs"] == "2"
        assert table[name]["versions"] == f"torch {version}"
        assert float(table[name]["accuracy"]) <= 0.5
        assert float(table[name]["images/s"]) > 0
    assert table["cifar100, to 0.75 on validation images"]["accuracy"] == "not reached"
    assert "cifar10" not in table, "only measured rows are written"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_gpu_without_one():
    error = start("--rows speed").end().error
    assert error.startswith("error: no CUDA device found; use --dry-run")


def test_gpu_page_keeps_the_text_around_the_table(tmp_path):
    first = bench(tmp_path)
    assert first.table() == "Not measured yet."
    first.page.write_text(f"above\n{BEGIN}an old table\n{END}below\n")
    first.add("cifar10", {"epochs": 3})
    text = first.page.read_text()
    assert text.startswith("above\n")
    assert text.endswith("below\n")
    assert "an old table" not in text
    assert rows(first.page)["cifar10"]["epochs"] == "3"
    assert bench(tmp_path).table() == first.table()
