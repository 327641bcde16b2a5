"""What a program imports before it can answer; `started` runs it as its users do, so that nothing is imported yet."""

import json

import torch
from PIL import Image
from program import started

COSTLY = "torch._dynamo torch.distributed.tensor sympy scipy sklearn matplotlib torchvision transformers".split()
LIGHTNING = "pytorch_lightning lightning_fabric torchmetrics".split()
REPORT = (
    f"import json, sys; print(json.dumps([m for m in {COSTLY + LIGHTNING} if m in sys.modules]))"
)


def imported(code: str) -> list[str]:
    """Which of the costly modules a program has imported when it has run the code."""
    ended = started("-c", f"{code}\n{REPORT}")
    assert ended.code == 0, ended
    return json.loads(ended.out.splitlines()[-1])


def test_the_parser_leaves_out_what_torchmetrics_imports_for_other_metrics():
    found = imported(
        "from src.cli.start import import_torchmetrics; import_torchmetrics(); import src.cli.parser"
    )
    assert set(found) & set(LIGHTNING) == set(LIGHTNING)
    assert not set(found) & {"scipy", "sklearn", "matplotlib", "torchvision", "transformers"}


def test_what_was_hidden_can_be_imported_afterwards():
    code = """
from src.cli.start import UNUSED, import_torchmetrics
import_torchmetrics()
import scipy.signal, matplotlib, torchvision
from lightning_utilities.core.imports import RequirementCache, module_available
assert RequirementCache("torchvision") and module_available("scipy")
from torchmetrics.classification import MulticlassAccuracy
import torch
assert MulticlassAccuracy(3, average="micro")(torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 2, 2])) == 0.75
"""
    assert "torchvision" in imported(code)


def test_a_classified_image_needs_neither_the_compiler_nor_lightning(digits_run, tmp_path):
    image = Image.new("L", (60, 60), 255)
    image.paste(0, (28, 15, 33, 45))  # a stroke
    image.save(tmp_path / "image.png")
    code = f"from classify import main; main([{str(tmp_path / 'image.png')!r}, '--ckpt', {str(digits_run)!r}])"
    assert imported(code) == (["sympy"] if torch.__version__.startswith("2.6.") else []), (
        "whose checks import it"
    )


def test_help_of_classify_imports_nothing():
    code = "import sys, classify\ntry:\n    classify.main(['--help'])\nfinally:\n    print('torch' in sys.modules)"
    assert started("-c", code).out.splitlines()[-1] == "False"
