"""Test the GPU benchmark on the CPU, scaled down."""

import pytest
import torch
from markdown import rows
from photos import class_folders

from benchmarks import gpu
from src.data.datasets import DATASETS
from src.errors import InputError


@pytest.fixture
def flags(tmp_path):
    for name, images in (("cifar10", 4), ("cifar100", 2)):
        classes = DATASETS[name].classes
        class_folders(tmp_path / "data" / name, classes, (32, 32), train=images, test=1)
    return f"--dry-run --root {tmp_path}/data --runs {tmp_path}/runs --rows"


def table_of(text):
    """Return the printed table as {row: {column: cell}}."""
    return {name: dict(zip(gpu.COLUMNS, cells, strict=True)) for name, cells in rows(text).items()}


def test_gpu_continues_with_the_runs_and_rows_that_exist(bench, flags, tmp_path):
    printed = bench("gpu", f"{flags} cifar10_finetune")
    assert "needs a finished cifar100 run" in printed
    first = table_of(bench("gpu", f"{flags} cifar100"))
    (tmp_path / "runs" / "figures.json").unlink()
    table = table_of(bench("gpu", f"{flags} cifar100 cifar10_finetune"))
    runs = [path.name for path in (tmp_path / "runs").glob("*/version_*")]
    assert runs == ["version_0"] * 2, "the run was resumed"
    assert table["cifar100"]["accuracy"] == first["cifar100"]["accuracy"]
    version = torch.__version__.split("+")[0]
    for name in ("cifar100", "cifar10_finetune"):
        assert table[name]["epochs"] == "2"
        assert table[name]["versions"] == f"torch {version}"
        assert float(table[name]["images/s"].replace(",", "")) > 0
    assert table["cifar100, to 0.75 on validation images"]["accuracy"] == "not reached"
    assert "cifar10" not in table, "only measured rows are written"


def test_gpu_speeds(bench, flags, monkeypatch):
    monkeypatch.setattr(gpu, "SPEEDS", ["cifar10_fast"])
    monkeypatch.setattr(gpu, "VIT_TI", gpu.VIT_TI._replace(width=12, depth=1))
    table = table_of(bench("gpu", f"{flags} speed"))
    recipe = ["cifar10_fast, bare steps", "cifar10_fast, train.py"]
    assert list(table) == [*recipe, *(f"ViT-Ti, 32 px, {name}" for name in gpu.PEERS)]
    for cells in table.values():
        assert float(cells["images/s"].replace(",", "")) > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_gpu_without_one(bench):
    with pytest.raises(InputError, match="no CUDA device found; use --dry-run"):
        bench("gpu", "--rows speed")
