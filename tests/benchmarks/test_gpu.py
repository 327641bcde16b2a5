"""The rows that need a GPU, tried on the CPU: killed in the middle and started again they end with the whole table."""

import os
import subprocess
import sys
import time

import pytest
import torch
from photos import class_folders
from program import ROOT

from src.data.datasets import DATASETS


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    class_folders(folder / "cifar10", DATASETS["cifar10"].classes, (32, 32), train=4, test=1)
    class_folders(folder / "cifar100", DATASETS["cifar100"].classes, (32, 32), train=2, test=1)
    return folder


def start(*flags):
    command = [sys.executable, "-m", "benchmarks.gpu", *map(str, flags)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True)


def rows(page):
    """The table of the page: {row: {column: cell}}."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.read_text().splitlines() if "|" in line]
    return {line[0]: dict(zip(lines[0][1:], line[1:], strict=True)) for line in lines[2:]}


def test_gpu_killed_in_the_middle_and_started_again_it_ends_with_the_whole_table(root, tmp_path):
    flags = ["--dry-run", "--root", root, "--runs", tmp_path, "--rows", "cifar100", "cifar10_finetune"]
    checkpoint, killed = tmp_path / "cifar100" / "version_0" / "checkpoints" / "last.ckpt", start(*flags)
    while not checkpoint.exists() and killed.poll() is None:
        time.sleep(0.002)
    killed.kill()
    output, _ = killed.communicate()
    assert killed.returncode == -9 and not (tmp_path / "cifar10_finetune").exists(), output

    again = start(*flags)
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert sorted(path.name for path in tmp_path.glob("*/version_*")) == ["version_0"] * 2, "it went on with the run"
    table = rows(tmp_path / "gpu.md")
    version = torch.__version__.split("+")[0]
    for name in ("cifar100", "cifar10_finetune"):
        assert table[name]["passes"] == "2" and table[name]["versions"] == f"torch {version}"
        assert float(table[name]["accuracy"]) <= 0.5 and float(table[name]["images/s"]) > 0
    assert table["cifar100, to 0.75 on validation images"]["accuracy"] == "not reached"
    assert {"cifar10", "cifar10_best", "ViT-Ti, 32 px, timm, eager", "cifar10_fast, train.py"} <= table.keys()
    assert set(table["cifar10_best"].values()) == {"-"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_gpu_without_one_one_line_says_so():
    process = start("--rows", "speed")
    output, _ = process.communicate()
    assert process.returncode == 2 and output.startswith("error: there is no CUDA device here; use --dry-run")
