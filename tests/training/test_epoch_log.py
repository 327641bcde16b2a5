"""Test the logged gradient, weight and update norms, and the running mean of the loss."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from src import lightning_loop
from src.training.epoch_log import Norms
from src.training.running_mean import RunningMean


def network() -> nn.Module:
    """Return a network with a frozen bias."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    net[0].bias.requires_grad_(False).fill_(1e6)
    return net


def step(net: nn.Module) -> dict:
    """Take one SGD step with learning rate 0.1, and return the logged values."""
    logged = {}
    module = SimpleNamespace(net=net, log=logged.__setitem__, log_dict=logged.update)
    norms = Norms()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.randn(5, 3)).square().mean().backward()
    norms.on_before_optimizer_step(None, module, optimizer)
    optimizer.step()
    norms.on_train_batch_end(None, module, None, None, 0)
    return logged


def norm_of(tensors) -> float:
    return float(torch.cat([tensor.detach().flatten() for tensor in tensors]).norm())


def test_norms_are_those_of_the_trained_weights(monkeypatch):
    monkeypatch.setattr(lightning_loop, "is_logging_step", lambda trainer: True)
    net = network()
    trained = [p for p in net.parameters() if p.requires_grad]
    weights = norm_of(trained)
    logged = step(net)
    gradient = norm_of(p.grad for p in trained)
    assert logged["gradient_norm"] == pytest.approx(gradient, rel=1e-5)
    assert logged["weight_norm"] == pytest.approx(weights, rel=1e-5)
    assert logged["update_ratio"] == pytest.approx(0.1 * gradient / weights, rel=1e-4)


def test_nothing_is_computed_in_other_steps(monkeypatch):
    monkeypatch.setattr(lightning_loop, "is_logging_step", lambda trainer: False)
    assert step(network()) == {}


def test_a_running_mean_is_weighted_by_batch_size():
    mean = RunningMean()
    mean.update(torch.tensor(1.0), 30)
    mean.update(torch.tensor(4.0), 10)
    assert mean.compute() == 1.75
    mean.update(torch.tensor(float("nan")), 1)
    assert mean.compute().isnan()
