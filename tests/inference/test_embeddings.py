"""Test that --embeddings writes the input of the head, in the order of the files."""

import numpy as np
import pytest
import torch
from PIL import Image
from program import call
from torch.testing import assert_close
from vits import dataset
from vits import save as save_file

import classify
from src.config import CNNConfig, TrainingConfig, ViTConfig
from src.data.datasets import read_digits
from src.inference.batch import BATCH
from src.inference.predictor import Predictor
from src.models.build import build_network
from src.runs.checkpoint import FORMAT, describe

IMAGES = read_digits("test")[0]


def embed(checkpoint, *args):
    """Run classify.py and return its result, the features and the paths."""
    out = checkpoint.parent / "out.npz"
    flags = ["--ckpt", checkpoint, "--device", "cpu"]
    ended = call(classify.main, *args, *flags, "--embeddings", out)
    assert ended.code in (0, 1), ended
    with np.load(out) as file:
        assert set(file) == {"embeddings", "paths"}
        return ended, torch.from_numpy(file["embeddings"]), file["paths"].tolist()


@pytest.fixture
def folder(tmp_path):
    """A folder with a broken file, and more files than fit into a batch."""
    folder = tmp_path / "ünï"
    folder.mkdir()
    for number in range(BATCH + 3):
        Image.fromarray(IMAGES[number, 0].numpy()).save(folder / f"{number:03}.png")
    (folder / "broken.png").write_bytes(b"")
    return folder


@pytest.fixture
def save(tmp_path):
    """Return a function that saves a network with random weights for digits."""

    def save(config, ensemble=1, patch_size=None):
        images = dataset(8, patch_size, classes=10, channels=1)
        state = build_network(config, images, ensemble).state_dict()
        hparams = describe(images, config, TrainingConfig(ensemble=ensemble))
        content = {
            "format": FORMAT,
            "hyper_parameters": hparams,
            "state_dict": {f"net.{key}": value for key, value in state.items()},
        }
        return save_file(tmp_path, content, "net.ckpt")

    return save


def test_the_head_turns_the_embeddings_into_the_predictions(save, folder):
    checkpoint = save(ViTConfig(width=8, depth=1, heads=1), patch_size=4)
    ended, embeddings, paths = embed(checkpoint, folder)
    assert ended.code == 1
    assert paths == [str(folder / f"{number:03}.png") for number in range(BATCH + 3)]
    assert embeddings.dtype == torch.float32
    assert embeddings.shape == (BATCH + 3, 8)
    predictor = Predictor(checkpoint, "cpu")
    with torch.no_grad():
        logits = predictor.classifier.network.head(embeddings)
        expected = predictor.classifier.logits(IMAGES[: BATCH + 3])
    assert embeddings.std(dim=0).min() > 0
    assert_close(logits, expected, atol=1e-5, rtol=0)


def test_a_cnn_and_an_ensemble(save, folder):
    image = folder / "000.png"
    checkpoint = save(CNNConfig())
    _, embeddings, paths = embed(checkpoint, image)
    assert paths == [str(image)]
    predictor = Predictor(checkpoint, "cpu")
    with torch.no_grad():
        logits = predictor.classifier.network.layers[-1](embeddings)
        expected = predictor.classifier.logits(IMAGES[:1])
    assert_close(logits, expected, atol=1e-5, rtol=0)
    checkpoint = save(ViTConfig(width=8, depth=1, heads=1), ensemble=2, patch_size=4)
    _, embeddings, _ = embed(checkpoint, image)
    assert embeddings.shape == (1, 16)
    assert not torch.equal(embeddings[:, :8], embeddings[:, 8:])


def test_nothing_is_written_if_no_image_can_be_read(save, folder, tmp_path):
    out = tmp_path / "out.npz"
    out.write_text("previous file")
    checkpoint = save(CNNConfig())
    broken = [folder / "broken.png"] * 2
    ended = call(classify.main, *broken, "--ckpt", checkpoint, "--embeddings", out)
    assert ended.code == 2
    assert "out.npz: not written because no image could be read" in ended.err
    assert out.read_text() == "previous file"


def test_a_path_that_cannot_be_written_is_refused_at_once(tmp_path):
    out = tmp_path / "missing" / "out.npz"
    ended = call(classify.main, "any.png", "--embeddings", out)
    assert ended.code == 2
    assert f"--embeddings {out}: the name must end in .npz, and its folder must exist" in ended.err
