"""Muon, compared with PyTorch's own."""

import copy

import pytest
import torch
from batches import generator
from torch import nn
from vits import vit

from src.training.optim import Muon, muon_groups, orthogonalize


@pytest.fixture
def network():
    return vit(image_size=16, patch_size=4, width=32, depth=2, heads=4)


def set_gradients(network, seed: int) -> None:
    for p in network.parameters():
        p.grad = torch.randn(p.shape, generator=generator(seed))


def build(network) -> Muon:
    return Muon(muon_groups(network, 0.1), lr=0.02, betas=(0.9, 0.99))


@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 96, 32), (1, 16, 64), (3, 24, 40)])
def test_orthogonalize(shape):
    matrices = torch.randn(shape, generator=generator())
    singular_values = torch.linalg.svdvals(orthogonalize(matrices))
    assert singular_values.min() > 0.6
    assert singular_values.max() < 1.2


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="needs torch 2.9 for torch.optim.Muon")
def test_steps_like_torch(network):
    """PyTorch's Muon works in bf16, so matrices agree only roughly."""
    start, other = copy.deepcopy(network), copy.deepcopy(network)
    ours = build(network)
    hidden, *rest = muon_groups(other, 0.1)
    muon = torch.optim.Muon(
        hidden["params"],
        lr=0.02,
        weight_decay=0.1,
        momentum=0.95,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(rest, lr=0.02, betas=(0.9, 0.99))
    for seed in range(3):
        set_gradients(network, seed)
        set_gradients(other, seed)
        for optimizer in (ours, muon, adamw):
            optimizer.step()
    matrices = {id(p) for p in hidden["params"]}
    triples = zip(start.parameters(), network.parameters(), other.parameters(), strict=True)
    for before, actual, expected in triples:
        if id(expected) in matrices:
            assert (actual - expected).norm() < 0.05 * (expected - before).norm()
        else:
            torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)


def test_a_convolution_is_a_matrix():
    conv = nn.Conv2d(8, 16, 3, bias=False)
    linear = nn.Linear(72, 16, bias=False)
    linear.weight.data.copy_(conv.weight.flatten(1))
    conv.weight.grad = torch.randn_like(conv.weight)
    linear.weight.grad = conv.weight.grad.flatten(1)
    for layer in (conv, linear):
        group = {"params": [layer.weight], "weight_decay": 0.1, "muon": True}
        Muon([group], lr=0.1, betas=(0.9, 0.99)).step()
    torch.testing.assert_close(conv.weight.flatten(1), linear.weight, atol=1e-6, rtol=1e-5)


def test_resumes_from_its_state(network):
    optimizer = build(network)
    set_gradients(network, 0)
    optimizer.step()
    resumed = copy.deepcopy(network)
    state = copy.deepcopy(optimizer.state_dict())
    set_gradients(network, 1)
    optimizer.step()

    other = build(resumed)
    other.load_state_dict(state)
    set_gradients(resumed, 1)
    other.step()
    for expected, actual in zip(network.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(actual, expected)
