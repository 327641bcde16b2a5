"""Test this project's modules with Lightning's own Trainer and ordinary DataLoaders."""

import contextlib
import io
import re

import pytest
import pytorch_lightning as pl
import torch
from library import PATCHES, SMALL, digits, trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from examples import own_training
from src.inference.predictor import Predictor
from src.training.classifier import ViT
from src.transforms.patchify import normalize, patchify

pytestmark = pytest.mark.usefixtures("quiet")


def with_random_head(model: ViT) -> ViT:
    """Randomize the head, because its initial zeros would give all images the same logits."""
    torch.nn.init.normal_(model.net.head.weight)
    return model


def validate(model, loader) -> dict[str, float]:
    (metrics,) = trainer().validate(model, loader, verbose=False)
    return metrics


def test_train_test_load_and_predict(tmp_path):
    pl.seed_everything(0)
    train = digits(count=1024)
    val = digits("test", 180)
    test = digits("test", 359)
    best = ModelCheckpoint(tmp_path, monitor="val_accuracy", mode="max")
    fit = trainer(8, enable_checkpointing=True, callbacks=[best])
    model = ViT(PATCHES, width=32, depth=2, heads=4, lr=5e-3)
    fit.fit(model, train, val)
    (tested,) = fit.test(model, test, ckpt_path="best", weights_only=True, verbose=False)
    assert tested["test_accuracy"] > 0.6

    again = ViT.load_from_checkpoint(best.best_model_path)
    probabilities = torch.cat(trainer().predict(again, test))
    images, labels = test.dataset.tensors
    accuracy = (probabilities.argmax(1) == labels).double().mean()
    assert float(accuracy) == pytest.approx(tested["test_accuracy"], abs=1e-6)
    predicted = Predictor(best.best_model_path, "cpu").probabilities(images)
    torch.testing.assert_close(probabilities, predicted, atol=1e-6, rtol=0)


def normalize_digits(images: torch.Tensor) -> torch.Tensor:
    return normalize(images, [0.3], [0.4])


@pytest.mark.parametrize(
    "inputs",
    [
        normalize_digits,
        lambda images: normalize_digits(images).double(),
        lambda images: patchify(normalize_digits(images), 2),
    ],
    ids=["float images", "double images", "patches"],
)
def test_every_kind_of_input_is_equivalent_to_uint8(inputs):
    dataset = PATCHES | {"mean": [0.3], "std": [0.4]}
    model = with_random_head(ViT(dataset, **SMALL))
    expected = validate(model, digits())
    assert validate(model, digits(inputs=inputs)) == pytest.approx(expected, abs=1e-6)


def test_the_example_runs(tmp_path):
    arguments = ["--epochs", "1", "--images", "256", "--folder", str(tmp_path)]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        own_training.main(arguments)
    assert (tmp_path / "best.ckpt").is_file()
    assert re.search(r"test accuracy 0\.\d+", printed.getvalue())
