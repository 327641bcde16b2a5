"""Pictures prepared as the description of an exported file says are seen as by classify.py."""

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from photos import FOUR, SEVEN, ZERO, written
from PIL import Image
from program import ROOT
from vits import randomize

from src.data.datasets import DATASETS, read_torchvision
from src.extras.export.describe import describe, preparation
from src.extras.export.export import export
from src.extras.export.formats import ExportedNetwork
from src.extras.paper.reader import digit_reader
from src.inference.predictor import Predictor
from src.runs.checkpoint import FORMAT
from src.training.classifier import ViT

MNIST = replace(DATASETS["mnist"], patch_size=7)
CIFAR10 = replace(DATASETS["cifar10"], patch_size=8)


def save_checkpoint(folder, dataset):
    """Write a checkpoint of a small network with random weights."""
    module = randomize(ViT(dataset, width=16, depth=1, heads=2, pool="mean"))
    content = {
        "format": FORMAT,
        "hyper_parameters": dict(module.hparams),
        "state_dict": module.state_dict(),
    }
    torch.save(content, folder / "best.ckpt")
    return folder / "best.ckpt"


def run_code(code, picture):
    """Run the code of a description on a picture; return its variables and what it printed."""
    variables, out = {}, io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code.replace("picture.png", str(picture)), variables)
    return variables, out.getvalue().strip()


class Seen(torch.nn.Module):
    """Stands for a network: returns the brightness of its normalized images, from 0 to 255."""

    def forward(self, images):
        return (images * MNIST.std[0] + MNIST.mean[0]) * 255


def seen_by_network(predictor, images):
    exported = ExportedNetwork(predictor, white=255)
    exported.network = Seen()
    return exported(images).round()


def test_steps_tell_how_strokes_are_made():
    steps = " ".join(preparation(MNIST, "onnx"))
    for part in ("strokes are light on black", "20 pixels", "center of mass is 14.5 pixels"):
        assert part in steps
    assert "the training images are dark" in " ".join(
        preparation(DATASETS["fashion_mnist"], "onnx")
    )
    assert "invert" not in " ".join(preparation(CIFAR10, "onnx"))


@pytest.mark.parametrize("strokes", [ZERO, FOUR, SEVEN])
@pytest.mark.parametrize("ink", [0, 255])
def test_drawn_digits_look_as_in_classify(tmp_path, strokes, ink):
    predictor = Predictor(save_checkpoint(tmp_path, MNIST), "cpu")
    picture = tmp_path / "drawn.png"
    written(strokes, (400, 300), pen=24, ink=ink, paper=255 - ink).save(picture)
    code = describe(predictor, "torch_export", "uint8", tmp_path / "best.pt2")["python"]
    preparing, _ = code.split("import torch")
    variables, _ = run_code(preparing, picture)
    actual = seen_by_network(predictor, torch.tensor(variables["images"]))[0, 0]
    expected = digit_reader(MNIST)(str(picture)).image[0].float()
    assert np.corrcoef(actual.flatten(), expected.flatten())[0, 1] > 0.85


def test_strokes_are_inverted_and_centered_in_the_file(tmp_path):
    predictor = Predictor(save_checkpoint(tmp_path, MNIST), "cpu")
    image = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    image[..., 12:17, 12:17] = 200  # centered on 14.5
    assert seen_by_network(predictor, image).equal(image.float())
    assert seen_by_network(predictor, 255 - image).equal(image.float())
    moved = image.roll((3, -5), dims=(2, 3))
    assert seen_by_network(predictor, moved).equal(image.float())
    blank = torch.zeros_like(image)
    assert seen_by_network(predictor, blank).equal(blank.float())


@pytest.mark.real_data
def test_images_of_mnist_pass_unchanged(tmp_path):
    if not (ROOT / "data" / "MNIST" / "raw").is_dir():
        pytest.skip("needs the real mnist under data/")
    images, _ = read_torchvision("mnist", ROOT / "data", "test", download=False)
    predictor = Predictor(save_checkpoint(tmp_path, MNIST), "cpu")
    assert seen_by_network(predictor, images).equal(images.float())


@torch.no_grad()
@pytest.mark.parametrize("dataset", [MNIST, CIFAR10])
def test_code_of_the_description_names_the_class_of_classify(tmp_path, offline, dataset):
    pytest.importorskip("onnxscript")
    path = save_checkpoint(tmp_path, dataset)
    description = export(path, "onnx", tmp_path / "best.onnx", data=str(tmp_path))
    predictor = Predictor(path, "cpu")
    picture = tmp_path / "picture.png"
    side = 28 if dataset is MNIST else 90
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
        if dataset is MNIST:
            pixels[[0, -1]] = pixels[:, [0, -1]] = 0
        Image.fromarray(pixels).save(picture)
        variables, printed = run_code(description["python"], picture)
        images = predictor.read([str(picture)])
        expected = predictor.classifier.logits(images)
        torch.testing.assert_close(torch.tensor(variables["logits"]), expected, atol=1e-4, rtol=0)
        assert printed == predictor.top(images, 1)[0][0]["class"]
