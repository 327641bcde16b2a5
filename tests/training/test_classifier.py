"""Compare weight updates with values calculated by hand, and test model flags."""

import copy
import re
from dataclasses import fields

import pytest
import torch
from library import QUIET, small, trainer
from program import differences, train
from pytorch_lightning import Callback
from torch.nn.utils import parameters_to_vector

from src.config import ViTHyperparameters
from src.data.modules import DigitsDataModule
from src.training.classifier import ViT
from src.training.trainer import Trainer


class Weights(Callback):
    """Record all weights as a single vector before training and after each step."""

    def on_train_start(self, trainer, module) -> None:
        self.seen = [parameters_to_vector(module.net.parameters()).detach()]

    def on_train_batch_end(self, trainer, module, *rest) -> None:
        self.seen.append(parameters_to_vector(module.net.parameters()).detach())


def train_steps(steps: int, clip: float | None = None, **options):
    """Train a small network on digits, and return it and its weights before and after each step."""
    data = DigitsDataModule(patch_size=None, batch_size=64)
    model = ViT(
        data.info,
        width=8,
        depth=1,
        heads=1,
        stem_layers=2,
        warmup_epochs=0,
        **options,
    )
    weights = Weights()
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=steps,
        limit_val_batches=0,
        gradient_clip_val=clip,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        callbacks=[weights],
        **QUIET,
    )
    trainer.fit(model, datamodule=data)
    return model, weights.seen


def test_the_average_of_the_weights():
    model, (start, first, second) = train_steps(2, lr=0.1, ema_decay=0.2)
    # The decay is (1 + step) / (10 + step), limited to ema_decay.
    average = start + (1 - 2 / 11) * (first - start)
    average = average + (1 - 0.2) * (second - average)
    found = parameters_to_vector(model.ema.parameters())
    torch.testing.assert_close(found, average, atol=1e-6, rtol=1e-5)
    assert (found - second).norm() > 1e-3
    assert differences(list(model.ema.buffers()), list(model.net.buffers())) == []


@pytest.mark.parametrize("clip", [None, 0.01])
def test_the_gradient_norm_is_logged_and_clipped(clip):
    sgd = {"optimizer": "sgd", "lr": 0.5, "weight_decay": 0}
    model, (before, after) = train_steps(1, clip, **sgd)
    nesterov = 1 + 0.9  # Nesterov factor in the first step, with momentum 0.9
    logged = float(model.trainer.logged_metrics["gradient_norm"])
    expected = 0.5 * nesterov * (clip or logged)
    assert logged > 0.01
    assert (after - before).norm() == pytest.approx(expected, rel=0.01)


def test_a_weight_of_two_counts_an_image_twice():
    model = small(label_smoothing=0.1)
    fit = trainer()
    model.trainer = fit
    model.on_train_epoch_start()
    inputs = torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8)
    labels = torch.tensor([1, 2, 3])
    twice = [0, 0, 1, 2]
    expected = model.training_step((inputs[twice], labels[twice]), 0) * 4
    weighted = model.training_step((inputs, labels, torch.tensor([2.0, 1.0, 1.0])), 0) * 3
    torch.testing.assert_close(weighted, expected)


@pytest.mark.parametrize("whiten", [False, True])
def test_a_frozen_stem_keeps_its_statistics(whiten):
    info = DigitsDataModule(patch_size=None).info
    network = {"width": 32, "depth": 1, "heads": 2, "stem_layers": 2}
    net = ViT(info, freeze="encoder", whiten=whiten, **network).net
    before = copy.deepcopy(net.state_dict())
    net(torch.randn(4, 1, 8, 8)).sum().backward()
    assert differences(net.state_dict(), before) == []
    assert net.head.weight.grad is not None
    assert net.embed.stages[0].conv1.weight.grad is None


def test_every_hyperparameter_is_a_flag_with_help():
    printed = train("--model.help", "ViT").out
    flag = re.compile(r"^  --model\.(\w+) \S+\s+(.+(?:\n {20,}.+)*)", re.MULTILINE)
    shown = {name: " ".join(text.split()) for name, text in flag.findall(printed)}
    hyperparameters = {field.name for field in fields(ViTHyperparameters)}
    assert shown.keys() == {"dataset", "init_from", "freeze"} | hyperparameters
    for name, text in shown.items():
        assert re.match(r"\S+ \S+ .*\((required, )?type: ", text), name
