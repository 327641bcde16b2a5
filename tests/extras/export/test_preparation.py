"""Test that the description of an exported file leads to the same predictions as classify.py."""

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from photos import FOUR, SEVEN, ZERO, written
from PIL import Image
from program import ROOT

from src.data.datasets import DATASETS, read_torchvision
from src.extras.export.describe import describe, preparation
from src.extras.export.export import export
from src.extras.export.formats import ExportedNetwork
from src.extras.paper.reader import digit_reader
from src.inference.predictor import Predictor

MNIST = DATASETS["mnist"]
CIFAR10 = DATASETS["cifar10"]
MEAN_POOL = {"pool": "mean"}


@pytest.fixture
def predictor(save_checkpoint):
    path, _ = save_checkpoint(MEAN_POOL, MNIST)
    return Predictor(path, "cpu")


def run_code(code, picture):
    """Run the code in a description on a picture, and return its variables and its output."""
    variables = {}
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code.replace("picture.png", str(picture)), variables)
    return variables, out.getvalue().strip()


class Denormalize(torch.nn.Module):
    """Stub of a network that converts its normalized input back to pixel values from 0 to 255."""

    def forward(self, images):
        return (images * MNIST.std[0] + MNIST.mean[0]) * 255


def seen_by_network(predictor, images):
    exported = ExportedNetwork(predictor)
    exported.network, exported.temperature = Denormalize(), 1.0
    return exported(images).round()


@pytest.mark.parametrize(
    ("dataset", "part"),
    [
        (MNIST, "the longer side to 20 pixels"),
        (MNIST, "the center of mass is 14.5 pixels"),
        (DATASETS["fashion_mnist"], "the training images have dark borders"),
        (CIFAR10, "Crop the center square and resize it to 32x32 pixels"),
        (replace(CIFAR10, fit="pad"), "Resize the longer side to 32 pixels and repeat the edges"),
        (replace(CIFAR10, fit="stretch"), "Resize it to 32x32 pixels, ignoring its proportions"),
    ],
)
def test_steps(dataset, part):
    steps = " ".join(preparation(dataset, "onnx"))
    assert part in steps
    assert ("invert" in steps) == (dataset.name != "cifar10")


@pytest.mark.parametrize("strokes", [ZERO, FOUR, SEVEN])
@pytest.mark.parametrize("ink", [0, 255])
def test_drawings_match_classify(tmp_path, predictor, strokes, ink):
    picture = tmp_path / "drawn.png"
    written(strokes, (400, 300), pen=24, ink=ink, paper=255 - ink).save(picture)
    code = describe(predictor, "torch_export", tmp_path / "best.pt2")["python"]
    preparing, _ = code.split("import torch")
    variables, _ = run_code(preparing, picture)
    images = torch.tensor(variables["images"])
    actual = seen_by_network(predictor, images)
    expected = digit_reader(MNIST)(str(picture)).image.float()
    correlation = np.corrcoef(actual.flatten(), expected.flatten())
    assert correlation[0, 1] > 0.85


def test_file_inverts_and_centers_strokes(predictor):
    image = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    image[..., 12:17, 12:17] = 200  # the center is at 14.5
    moved = image.roll((3, -5), dims=(2, 3))
    for drawn in (image, 255 - image, moved):
        assert seen_by_network(predictor, drawn).equal(image.float())
    blank = torch.zeros_like(image)
    assert seen_by_network(predictor, blank).equal(blank.float())


@pytest.mark.real_data
def test_file_does_not_change_mnist_images(predictor):
    if not (ROOT / "data" / "MNIST" / "raw").is_dir():
        pytest.skip("needs MNIST under data/")
    images, _ = read_torchvision("mnist", ROOT / "data", "test", download=False)
    assert seen_by_network(predictor, images).equal(images.float())


@torch.no_grad()
@pytest.mark.parametrize(
    ("dataset", "size"),
    [
        (MNIST, (28, 28)),
        (CIFAR10, (90, 90)),
        (replace(CIFAR10, fit="pad"), (31, 90)),
        (replace(CIFAR10, fit="stretch"), (90, 31)),
    ],
)
def test_described_code_predicts_as_classify(tmp_path, save_checkpoint, offline, dataset, size):
    pytest.importorskip("onnxscript")
    path, _ = save_checkpoint(MEAN_POOL, dataset)
    description = export(path, "onnx", tmp_path / "best.onnx", data=str(tmp_path))
    predictor = Predictor(path, "cpu")
    picture = tmp_path / "picture.png"
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        if dataset is MNIST:
            pixels[[0, -1]] = pixels[:, [0, -1]] = 0
        Image.fromarray(pixels).save(picture)
        variables, printed = run_code(description["python"], picture)
        actual = torch.tensor(variables["logits"])
        images = predictor.read([str(picture)])
        expected = predictor.classifier.logits(images)
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
        assert printed == predictor.top(images, 1)[0][0]["class"]
