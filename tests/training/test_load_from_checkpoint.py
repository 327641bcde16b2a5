"""Test `load_from_checkpoint` and resuming with Lightning's own Trainer."""

import math

import pytest
import pytorch_lightning as pl
import torch
from library import cnn, digits, small, trainer
from program import differences

from src.data.datasets import read_digits
from src.data.modules import DigitsDataModule
from src.errors import InputError
from src.inference.predictor import Predictor
from src.training.classifier import CNN, ViT

pytestmark = pytest.mark.usefixtures("quiet")


def save(folder, model):
    """Train for two steps, and return the path of the saved checkpoint."""
    fit = trainer(1, limit_train_batches=2)
    fit.fit(model, digits())
    fit.save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt"


@pytest.mark.parametrize(
    "options",
    [{}, {"ema_decay": 0.9}, {"ensemble": 2}, {"optimizer": "muon"}],
    ids=str,
)
def test_the_model_is_restored(tmp_path, options):
    model = small(**options)
    again = ViT.load_from_checkpoint(save(tmp_path, model))
    assert again.hparams == model.hparams
    assert differences(again.state_dict(), model.state_dict()) == []
    assert again.training, "Lightning's own method returns the model in training mode"


def test_a_run_of_train_py_is_loaded_and_trained_further(digits_run):
    path = str(digits_run / "checkpoints" / "last.ckpt")
    model = ViT.load_from_checkpoint(path, lr=1e-4)
    assert model.config.lr == 1e-4
    assert model.network_config.width == 8
    predicted = trainer().predict(model, datamodule=DigitsDataModule())
    expected = Predictor(path, "cpu").probabilities(read_digits("test")[0])
    torch.testing.assert_close(torch.cat(predicted), expected, atol=1e-6, rtol=0)
    trainer(1).fit(model, datamodule=DigitsDataModule())
    assert model.lr_now < 1e-4


def test_the_other_class_is_refused(tmp_path):
    path = save(tmp_path, cnn())
    assert isinstance(CNN.load_from_checkpoint(path), CNN)
    with pytest.raises(InputError, match="expected a vit checkpoint, got a cnn checkpoint"):
        ViT.load_from_checkpoint(path)


def test_a_checkpoint_cannot_name_another_file_to_load(tmp_path):
    path = save(tmp_path, small())
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["training"]["init_from"] = "torchvision:vit_b_16"
    torch.save(content, path)
    with pytest.raises(InputError, match="do not match its hyperparameters .*init_from"):
        ViT.load_from_checkpoint(path)


def test_code_in_a_file_is_refused(tmp_path):
    content = {"state_dict": {}, "hyper_parameters": {"network": math.sqrt}}
    torch.save(content, tmp_path / "hostile.ckpt")
    with pytest.raises(InputError, match="never code"):
        ViT.load_from_checkpoint(tmp_path / "hostile.ckpt")


def test_lightnings_trainer_resumes_exactly(tmp_path):
    options = {"dropout": 0.2, "warmup_epochs": 0, "min_lr": 1e-2}  # constant learning rate
    weights = []
    for stops in ((4,), (2, 4)):
        pl.seed_everything(0)
        path = None
        for epochs in stops:
            model = small(**options)
            fit = trainer(epochs)
            fit.fit(model, digits(), ckpt_path=path, weights_only=True)
            path = tmp_path / f"{epochs}.ckpt"
            fit.save_checkpoint(path)
        weights.append(model.state_dict())
    assert differences(*weights) == []
