"""Test that predictions for image files match validation and do not need Lightning."""

import re

import pytest
import torch
from batches import trainer
from PIL import Image
from program import call, started
from torch.testing import assert_close

import classify
from src.data.modules import DigitsDataModule
from src.errors import InputError
from src.inference.pipeline import ImageClassifier
from src.inference.predictor import Predictor, find_device
from src.runs.checkpoint import Checkpoint, load
from src.training.classifier import ViT

HEAVY = {
    "pytorch_lightning",
    "lightning",
    "lightning_fabric",
    "torchvision",
    "torchmetrics",
    "jsonargparse",
    "sklearn",
    "scipy",
    "matplotlib",
    "transformers",
    "torch._dynamo",
    "torch.distributed.tensor",
}
if not torch.__version__.startswith("2.6."):  # torch 2.6 itself imports sympy
    HEAVY.add("sympy")


@pytest.fixture(scope="module")
def checkpoint(digits_run):
    """best.ckpt of a short digits run with averaged weights and dropout."""
    return digits_run / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return Predictor(checkpoint, "cpu")


@pytest.fixture(scope="module")
def digits():
    """The digits data module in validation mode."""
    module = DigitsDataModule()
    module.prepare_data()
    module.trainer = trainer(training=False)
    return module


def png(folder, image):
    path = folder / "digit.png"
    Image.fromarray(image[0].numpy()).save(path)
    return str(path)


# Predicting ---------------------------------------------------------------------------------------


def test_image_file_gives_the_logits_of_validation(checkpoint, predictor, digits, tmp_path):
    images, labels = digits.sets["test"].__getitems__(torch.tensor([7]))
    read = predictor.prepare(png(tmp_path, images[0])).image[None]
    assert torch.equal(read, images)
    model = ViT.load_from_checkpoint(checkpoint).eval()
    inputs, _ = digits.on_after_batch_transfer((images, labels), 0)
    with torch.inference_mode():
        expected = model(inputs) / model.temperature
    assert expected.std() > 0.01
    for _ in range(2):  # equal results: dropout is off
        assert_close(predictor.probabilities(read), expected.softmax(1))


@pytest.mark.parametrize("kind", ["ema", "net"])
def test_averaged_weights_are_used_where_there_are_some(checkpoint, tmp_path, kind):
    content = load(checkpoint)
    state = content["state_dict"]
    assert not torch.allclose(state["ema.head.weight"], state["net.head.weight"], atol=1e-4)
    if kind == "net":
        content["state_dict"] = {k: v for k, v in state.items() if not k.startswith("ema.")}
    path = tmp_path / "weights.ckpt"
    torch.save(content, path)
    network = Checkpoint.open(path).build_network()
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[f"{kind}.{key}"])


def test_top_sorts_classes_by_probability(predictor, digits):
    images = digits.sets["test"].images[:300]  # more than one batch
    probabilities = predictor.probabilities(images)
    for row, expected in zip(predictor.top(images, 3), probabilities, strict=True):
        indices = [prediction["index"] for prediction in row]
        assert expected[indices[0]] == pytest.approx(float(expected.max()), abs=1e-5)
        assert [prediction["class"] for prediction in row] == list(map(str, indices))
        values = [prediction["probability"] for prediction in row]
        assert values == pytest.approx(expected[indices].tolist(), abs=1e-5)
    assert len(predictor.top(images, 99)[0]) == 10


def test_invert_swaps_dark_and_light(predictor, digits, tmp_path):
    image = digits.sets["test"].images[0]
    inverted = png(tmp_path, 255 - image)
    swapped = predictor.prepare(inverted, invert=True)
    assert torch.equal(swapped.image, image)
    assert swapped.notes == []
    (note,) = predictor.prepare(inverted).notes
    assert "try --invert yes" in note


# Memory and devices -------------------------------------------------------------------------------


def out_of_memory(*args):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("method", ["forward", "to"])
def test_too_little_memory_is_one_line(checkpoint, monkeypatch, method):
    monkeypatch.setattr(ImageClassifier, method, out_of_memory)
    ended = call(classify.main, "x.png", "--ckpt", checkpoint, "--device", "cpu")
    assert re.search("out of memory.*; close other .* or use a smaller network$", ended.error)


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "meta"])
def test_unusable_device_is_refused(name):
    with pytest.raises(InputError, match="is not available .* use --device cpu$"):
        find_device(name)


# Imports ------------------------------------------------------------------------------------------


def test_classifying_a_file_imports_little(checkpoint, digits, tmp_path):
    image = png(tmp_path, digits.sets["test"].images[0])
    script = tmp_path / "script.py"
    script.write_text(
        "import runpy, sys; runpy.run_path('classify.py', run_name='__main__')\nprint(*sys.modules)"
    )
    ended = started(script, image, "--ckpt", checkpoint, "--device", "cpu")
    modules = set(ended.out.splitlines()[-1].split())
    assert {"torch", "PIL"} <= modules, ended
    assert not modules & HEAVY


def test_help_imports_nothing():
    code = "import sys, classify\ntry: classify.main(['--help'])\nfinally: print(*sys.modules)"
    modules = started("-c", code).out.splitlines()[-1].split()
    assert "argparse" in modules
    assert "torch" not in modules
