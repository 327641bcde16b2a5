"""Test this project's data modules with Lightning's own Trainer."""

import pytest
import torch
from library import SMALL, trainer

from src.data.datasets import read_digits
from src.data.modules import DigitsDataModule
from src.training.classifier import ViT

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def digits():
    return DigitsDataModule(batch_size=128, eval_batch_size=20)


@pytest.fixture
def model(digits):
    network = ViT(digits.info, **SMALL, warmup_epochs=0)
    torch.nn.init.normal_(network.net.head.weight, std=0.1)
    return network


def test_each_method_of_a_trainer_works_with_a_fresh_module(model, digits):
    fit = trainer(3)
    fit.fit(model, datamodule=digits)
    accuracy = float(fit.callback_metrics["val_accuracy"])
    assert accuracy > 0.15
    (validated,) = trainer().validate(model, datamodule=DigitsDataModule(), verbose=False)
    assert validated["val_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    (tested,) = trainer().test(model, datamodule=DigitsDataModule(), verbose=False)
    probabilities = torch.cat(trainer().predict(model, datamodule=DigitsDataModule()))
    _, labels = read_digits("test")
    predicted = (probabilities.argmax(1) == labels).double().mean()
    assert float(predicted) == pytest.approx(tested["test_accuracy"], abs=1e-6)
