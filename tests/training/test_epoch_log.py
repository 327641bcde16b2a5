"""Norms of gradient, weights and update, and the running mean of the loss."""

import pytest
import torch
from torch import nn

from src import lightning_loop
from src.training.epoch_log import Norms
from src.training.running_mean import RunningMean


class Module:
    """A network with a frozen bias, and what is logged."""

    def __init__(self):
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        self.net[0].bias.requires_grad_(False)
        self.net[0].bias.data.fill_(1e6)
        self.trained = [p for p in self.net.parameters() if p.requires_grad]
        self.logged = {}

    def log(self, name, value):
        self.logged[name] = value

    def log_dict(self, values):
        self.logged |= values


def step(module: Module, norms: Norms) -> None:
    """Take a step of SGD with learning rate 0.1."""
    optimizer = torch.optim.SGD(module.trained, lr=0.1)
    module.net(torch.randn(5, 3)).square().mean().backward()
    norms.on_before_optimizer_step(None, module, optimizer)
    optimizer.step()
    norms.on_train_batch_end(None, module, None, None, 0)


def norm_of(tensors) -> float:
    return float(torch.cat([tensor.detach().flatten() for tensor in tensors]).norm())


def test_norms_are_those_of_the_trained_weights(monkeypatch):
    monkeypatch.setattr(lightning_loop, "is_logging_step", lambda trainer: True)
    module = Module()
    weights = norm_of(module.trained)
    step(module, Norms())
    gradient = norm_of(p.grad for p in module.trained)
    assert module.logged["gradient_norm"] == pytest.approx(gradient, rel=1e-5)
    assert module.logged["weight_norm"] == pytest.approx(weights, rel=1e-5)
    ratio = 0.1 * gradient / weights
    assert module.logged["update_ratio"] == pytest.approx(ratio, rel=1e-4)


def test_nothing_is_computed_in_other_steps(monkeypatch):
    monkeypatch.setattr(lightning_loop, "is_logging_step", lambda trainer: False)
    module, norms = Module(), Norms()
    step(module, norms)
    assert not module.logged
    assert not norms.before


def test_a_running_mean_is_weighted_by_batch_size():
    mean = RunningMean()
    mean.update(torch.tensor(1.0), 30)
    mean.update(torch.tensor(4.0), 10)
    assert mean.compute() == 1.75
    mean.update(torch.tensor(float("nan")), 1)
    assert mean.compute().isnan()
