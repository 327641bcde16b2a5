"""Test that torchmetrics is imported without the dependencies of unused metrics."""

from program import started

IMPORT = "from src.cli.fast_import import UNUSED, import_torchmetrics\nimport_torchmetrics()"


def test_unused_packages_are_not_imported():
    code = """
import src.cli.parser, sys
assert "torchmetrics" in sys.modules
print(*sys.modules.keys() & {*UNUSED, "sklearn"})
"""
    ended = started("-c", IMPORT + code)
    assert ended.code == 0, ended
    assert ended.out == "\n"


def test_unused_packages_can_be_imported_later():
    code = """
import matplotlib, scipy.signal, torch, torchvision
from lightning_utilities.core.imports import RequirementCache, module_available
from torchmetrics.classification import MulticlassAccuracy
assert RequirementCache("torchvision") and module_available("scipy")
accuracy = MulticlassAccuracy(3, average="micro")
assert accuracy(torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 2, 2])) == 0.75
"""
    ended = started("-c", IMPORT + code)
    assert ended.code == 0, ended
