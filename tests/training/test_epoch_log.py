"""Norms are those of gradient, weights and update, measured in the steps that are logged alone."""

import pytest
import torch
from torch import nn

from src import lightning_loop as loop
from src.training.epoch_log import Norms


class Module:
    def __init__(self):
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        self.net[0].bias.requires_grad_(False)
        self.logged = {}

    def log(self, name, value):
        self.logged[name] = value

    def log_dict(self, values):
        self.logged |= values


def step(module, norms, optimizer):
    optimizer.zero_grad()
    module.net(torch.randn(5, 3)).square().sum().backward()
    norms.on_before_optimizer_step(None, module, optimizer)
    optimizer.step()
    norms.on_train_batch_end(None, module, None, None, 0)


@pytest.fixture
def logging(monkeypatch):
    monkeypatch.setattr(loop, "is_logging_step", lambda trainer: True)


def test_norms_of_a_step_of_sgd(logging):
    module = Module()
    trained = [p for p in module.net.parameters() if p.requires_grad]
    weights = torch.cat([p.detach().flatten() for p in trained])
    step(module, Norms(), torch.optim.SGD(trained, lr=0.1))
    gradients = torch.cat([p.grad.flatten() for p in trained])
    assert module.logged["gradient_norm"] == pytest.approx(float(gradients.norm()), rel=1e-5)
    assert module.logged["weight_norm"] == pytest.approx(float(weights.norm()), rel=1e-5)
    assert module.logged["update_ratio"] == pytest.approx(
        float(0.1 * gradients.norm() / weights.norm()), rel=1e-4
    )


def test_a_frozen_weight_does_not_count(logging):
    module = Module()
    module.net[0].bias.data.fill_(1e6)
    step(module, Norms(), torch.optim.SGD(module.net.parameters(), lr=0.1))
    assert module.logged["weight_norm"] < 10


def test_other_steps_are_left_alone(monkeypatch):
    monkeypatch.setattr(loop, "is_logging_step", lambda trainer: False)
    module, norms = Module(), Norms()
    step(module, norms, torch.optim.SGD(module.net.parameters(), lr=0.1))
    assert not module.logged and not norms.before
