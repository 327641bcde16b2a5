"""Test this project's data modules with Lightning's own Trainer."""

import pytest
import torch
from library import SMALL, trainer
from pytorch_lightning.callbacks import Callback

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


class Record(Callback):
    """Record the labels of the training batches in each epoch, and count validation batches."""

    def __init__(self):
        self.epochs = []
        self.validated = 0

    def on_train_epoch_start(self, trainer, module):
        self.epochs.append([])

    def on_train_batch_start(self, trainer, module, batch, index):
        self.epochs[-1].append(batch[1].tolist())

    def on_validation_batch_start(self, *args):
        self.validated += 1


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


def test_an_evaluation_loader_works_alone(model, digits):
    """If there is no data module to normalize the images, the model does it."""
    digits.setup("test")
    alone = trainer().test(model, digits.test_dataloader(), verbose=False)
    whole = trainer().test(model, datamodule=digits, verbose=False)
    assert alone == whole


def test_overfit_batches_repeats_the_same_batches(model, digits):
    record = Record()
    trainer(3, overfit_batches=2, callbacks=[record]).fit(model, datamodule=digits)
    first, *others = record.epochs
    assert len(first) == 2
    assert others == [first, first]


def test_limits_hold(model, digits):
    record = Record()
    limits = {
        "limit_train_batches": 3,
        "limit_val_batches": 2,
        "limit_predict_batches": 4,
    }
    limited = trainer(2, **limits, callbacks=[record])
    limited.fit(model, datamodule=digits)
    assert [len(epoch) for epoch in record.epochs] == [3, 3]
    assert record.validated == 2 + 2 * 2  # sanity check plus two epochs
    predicted = torch.cat(limited.predict(model, datamodule=digits))
    assert len(predicted) == 4 * 20
