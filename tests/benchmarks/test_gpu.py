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
    class_folders(tmp_path / "data/cifar10", DATASETS["cifar10"].classes, (32, 32), train=4, test=1)
    return f"--dry-run --root {tmp_path}/data --runs {tmp_path}/runs --rows"


def table_of(text):
    """Return the printed table as {row: {column: cell}}."""
    return {name: dict(zip(gpu.COLUMNS, cells, strict=True)) for name, cells in rows(text).items()}


def test_gpu_continues_with_the_runs_and_rows_that_exist(bench, flags, tmp_path):
    first = table_of(bench("gpu", f"{flags} cifar10_fast"))
    (tmp_path / "runs" / "figures.json").unlink()
    table = table_of(bench("gpu", f"{flags} cifar10_fast cifar10_tutorial"))
    runs = [path.name for path in (tmp_path / "runs").glob("*/version_*")]
    assert runs == ["version_0"] * 2, "the run was resumed"
    assert table["cifar10_fast"]["accuracy"] == first["cifar10_fast"]["accuracy"]
    version = torch.__version__.split("+")[0]
    for name in ("cifar10_fast", "cifar10_tutorial"):
        assert table[name]["epochs"] == "2"
        assert table[name]["versions"] == f"torch {version}"
        assert float(table[name]["images/s"].replace(",", "")) > 0
    assert table["cifar10_fast, to 0.94 on validation images"]["accuracy"] == "not reached"
    assert "cifar10" not in table, "only measured rows are written"


def test_gpu_speeds(bench, flags, monkeypatch):
    monkeypatch.setattr(gpu, "GOALS", {"cifar10_fast": (0.94,)})
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
