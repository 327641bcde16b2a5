"""Test that the programs import neither matplotlib nor the dependencies of unused metrics."""

from program import started


def test_unused_packages_are_not_imported_but_can_be_imported_later():
    code = """
import contextlib, sys, train
with contextlib.suppress(SystemExit):
    train.main(["--help"])
from src.cli.fast_import import UNUSED
assert "torchmetrics" in sys.modules
assert "matplotlib" in UNUSED
assert not sys.modules.keys() & {*UNUSED, "sklearn"}

import matplotlib, scipy.signal, torch, torchvision
from lightning_utilities.core.imports import RequirementCache, module_available
from torchmetrics.classification import MulticlassAccuracy
assert RequirementCache("torchvision") and module_available("scipy")
accuracy = MulticlassAccuracy(3, average="micro")
assert accuracy(torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 2, 2])) == 0.75
"""
    ended = started("-c", code)
    assert ended.code == 0, ended
    assert "--pictures" in ended.out
