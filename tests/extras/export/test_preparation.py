"""Test that the code in a description prepares and classifies pictures as classify.py does."""

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
from src.extras.export.describe import describe
from src.extras.export.export import export
from src.extras.export.formats import FORMATS
from src.extras.paper.reader import digit_reader
from src.inference.predictor import Predictor

MNIST = DATASETS["mnist"]
CIFAR10 = DATASETS["cifar10"]
MEAN_POOL = {"pool": "mean"}


def run_code(code, picture):
    """Run the code in a description on a picture, and return its variables and its output."""
    variables = {}
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code.replace("picture.png", str(picture)), variables)
    return variables, out.getvalue().strip()


@pytest.fixture
def prepare(tmp_path, save_checkpoint):
    """Return a function that prepares a picture for an MNIST network and also returns its path."""
    path, _ = save_checkpoint(MEAN_POOL, MNIST)
    code = describe(Predictor(path, "cpu"), "torch_export", tmp_path / "best.pt2")["python"]
    preparing, _ = code.split("import torch")

    def prepared(picture):
        path = tmp_path / "picture.png"
        picture.save(path)
        return run_code(preparing, path)[0]["images"][0, 0], path

    return prepared


@pytest.mark.parametrize("strokes", [ZERO, FOUR, SEVEN])
@pytest.mark.parametrize("ink", [0, 255])
def test_drawings_match_classify(prepare, strokes, ink):
    drawing = written(strokes, (400, 300), pen=24, ink=ink, paper=255 - ink)
    actual, path = prepare(drawing)
    expected = digit_reader(MNIST)(str(path)).image
    correlation = np.corrcoef(actual.flatten(), expected.flatten())
    assert correlation[0, 1] > 0.85


def test_small_pictures_are_inverted_and_centered(prepare):
    image = np.zeros((28, 28), np.uint8)
    image[12:17, 12:17] = 200  # the center is at 14.5
    moved = np.roll(image, (3, -5), axis=(0, 1))
    for drawn in (image, 255 - image, moved):
        assert np.array_equal(prepare(Image.fromarray(drawn))[0], image)
    blank = np.zeros_like(image)
    assert np.array_equal(prepare(Image.fromarray(blank))[0], blank)


@pytest.mark.real_data
def test_mnist_images_are_not_changed(prepare):
    if not (ROOT / "data" / "MNIST" / "raw").is_dir():
        pytest.skip("needs MNIST under data/")
    images, _ = read_torchvision("mnist", ROOT / "data", "test", download=False)
    for image in images[:500, 0].numpy():
        assert np.array_equal(prepare(Image.fromarray(image))[0], image)


@torch.no_grad()
@pytest.mark.parametrize(
    ("format", "dataset", "size"),
    [
        ("onnx", MNIST, (28, 28)),
        ("torch_export", CIFAR10, (90, 90)),
        ("safetensors", replace(CIFAR10, fit="pad"), (31, 90)),
        ("safetensors", replace(CIFAR10, fit="stretch"), (90, 31)),
    ],
)
def test_described_code_predicts_as_classify(
    tmp_path, save_checkpoint, offline, format, dataset, size
):
    package = {"onnx": "onnxscript", "safetensors": "timm"}
    pytest.importorskip(package.get(format, "torch"))
    path, _ = save_checkpoint(MEAN_POOL, dataset)
    file = tmp_path / f"best{FORMATS[format].extension}"
    description = export(path, format, file, data=str(tmp_path))
    predictor = Predictor(path, "cpu")
    picture = tmp_path / "picture.png"
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        if dataset is MNIST:
            pixels[[0, -1]] = pixels[:, [0, -1]] = 0
        Image.fromarray(pixels).save(picture)
        variables, printed = run_code(description["python"], picture)
        actual = torch.tensor(variables["logits"])
        images = predictor.prepare(str(picture)).image[None]
        expected = predictor.classifier.logits(images)
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
        assert printed == predictor.top(images, 1)[0][0]["class"]
