"""Test that predictions for image files match validation and do not need Lightning."""

import pytest
import torch
from batches import random_images, trainer
from PIL import Image
from program import started
from torch.testing import assert_close

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
    read = predictor.read([png(tmp_path, images[0])])
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
    images = digits.sets["test"].images[:5]
    probabilities = predictor.probabilities(images)
    assert_close(probabilities.sum(1), torch.ones(5))
    for row, expected in zip(predictor.top(images, 3), probabilities, strict=True):
        indices = [prediction["index"] for prediction in row]
        assert indices == expected.argsort(descending=True)[:3].tolist()
        assert [prediction["class"] for prediction in row] == list(map(str, indices))
        values = [prediction["probability"] for prediction in row]
        assert values == pytest.approx(expected[indices].tolist(), abs=1e-6)
    assert len(predictor.top(images, 99)[0]) == 10


def test_several_batches_stay_in_order(predictor, digits):
    images = digits.sets["test"].images[:300]
    found = torch.tensor([row[0]["probability"] for row in predictor.top(images, 1)])
    expected = predictor.probabilities(images).amax(1)
    assert_close(found, expected, atol=1e-5, rtol=0)


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
def test_too_little_memory_for_the_network(checkpoint, monkeypatch, method):
    monkeypatch.setattr(ImageClassifier, method, out_of_memory)
    with pytest.raises(InputError, match="out of memory.*; close other programs$"):
        Predictor(checkpoint, "cpu")


def test_too_little_memory_for_the_images(predictor, monkeypatch):
    monkeypatch.setattr(ImageClassifier, "forward", out_of_memory)
    with pytest.raises(InputError, match="out of memory on cpu for 3 images; close"):
        predictor.top(random_images(3, 1, 8, 8), 1)


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "", "meta"])
def test_unusable_device_is_refused(name):
    with pytest.raises(InputError, match="is not available .* use --device cpu$"):
        find_device(name)


# Altered checkpoints ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [
        ("dataset", "classes", ["a", "b"]),
        ("dataset", "patch_size", 3),
        ("dataset", "mean", [0.1, 0.2]),
        ("network", "depth", 9),
        ("network", "kind", "rnn"),
    ],
)
def test_hyperparameters_must_fit_the_weights(checkpoint, tmp_path, group, key, value):
    content = load(checkpoint)
    content["hyper_parameters"][group][key] = value
    path = tmp_path / "altered.ckpt"
    torch.save(content, path)
    with pytest.raises(InputError, match="altered.ckpt: .*do not match") as caught:
        Predictor(path, "cpu")
    assert "\n" not in str(caught.value)


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
