"""Test parameter groups and the learning rate, and compare Muon with PyTorch's implementation."""

import copy
import itertools
import math

import pytest
import torch
from batches import generator
from vits import dataset, vit

from src.config import CNNConfig, TrainingConfig
from src.models.cnn import ConvNet
from src.models.ensemble import Ensemble
from src.models.stem import ConvStem
from src.training.optim import (
    Muon,
    build_optimizer,
    learning_rate,
    muon_groups,
    orthogonalize,
    parameter_groups,
)


def small_vit(pool="cls", positions="learned", stem_layers=0, classes=10, whiten=False):
    return vit(
        image_size=16,
        patch_size=None if stem_layers else 4,
        classes=classes,
        width=32,
        depth=2,
        heads=4,
        pool=pool,
        positions=positions,
        stem_layers=stem_layers,
        whiten=whiten,
    )


def cnn():
    return ConvNet(CNNConfig(), dataset(image_size=28, patch_size=None, channels=1))


VITS = list(itertools.product(["cls", "mean", "max", "sequence"], ["learned", "sincos"], [0, 2]))


@pytest.fixture(params=[*VITS, None], ids=str)
def network(request):
    return small_vit(*request.param) if request.param else cnn()


def names_of(group, network) -> set[str]:
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {names[id(parameter)] for parameter in group["params"]}


def assert_complete(groups, network) -> None:
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters())


def test_every_parameter_is_in_one_group_and_only_matrices_decay(network):
    groups = parameter_groups(network, 0.05)
    assert_complete(groups, network)
    decaying, others = groups
    assert decaying["weight_decay"] == 0.05
    assert others["weight_decay"] == 0.0
    for name in names_of(decaying, network):
        assert name.endswith("weight") and "norm" not in name, name
    exempt = ("norm", "class_token", "positions")
    for name in names_of(others, network):
        assert name.endswith("bias") or any(part in name for part in exempt), name


@pytest.mark.parametrize("make_groups", [parameter_groups, muon_groups])
def test_frozen_parameters_and_empty_groups_are_left_out(make_groups):
    network = small_vit().requires_grad_(False)
    assert make_groups(network, 0.05) == []
    network.head.requires_grad_(True)
    decaying, others = make_groups(network, 0.05)
    assert names_of(decaying, network) == {"head.weight"}
    assert names_of(others, network) == {"head.bias"}
    network.head.bias.requires_grad_(False)
    assert len(make_groups(network, 0.05)) == 1


def test_muon_takes_the_hidden_matrices(network):
    groups = muon_groups(network, 0.05)
    assert_complete(groups, network)
    hidden, *others = groups
    assert hidden["muon"]
    assert not any("muon" in group for group in others)
    names = names_of(hidden, network)
    if isinstance(network, ConvNet):
        assert names == {"layers.2.weight", "layers.7.weight"}
        return
    excluded = ("head", "positions", "sequence_pool", "embed.stages.0.conv1", "embed.weight")
    for name in names:
        assert network.get_parameter(name).ndim >= 2 and "norm" not in name, name
        assert not name.startswith(excluded), name
    assert "blocks.0.attention.qkv.weight" in names
    has_stem = isinstance(network.embed, ConvStem)
    assert ("embed.stages.1.conv1.weight" in names) == has_stem


def test_constant_norm_puts_the_convolutions_of_a_stem_into_a_group_of_their_own():
    network = small_vit(stem_layers=2, whiten=True)
    hidden, *others = muon_groups(network, 0.05)
    matrices, kernels, *rest = muon_groups(network, 0.05, constant_norm=True)
    stages = (f"embed.stages.{i}.conv{j}.weight" for i in (0, 1) for j in (1, 2))
    assert names_of(kernels, network) == set(stages)
    assert names_of(matrices, network) == names_of(hidden, network) - names_of(kernels, network)
    assert [names_of(g, network) for g in rest] == [names_of(g, network) for g in others]
    for plain in (small_vit(), cnn()):  # no stem
        assert len(muon_groups(plain, 0.05, constant_norm=True)) == 3


def test_muon_groups_of_an_ensemble_are_those_of_its_networks():
    single = small_vit()
    ensemble = Ensemble([small_vit(), small_vit()])
    alone = names_of(muon_groups(single, 0.05)[0], single)
    together = names_of(muon_groups(ensemble, 0.05)[0], ensemble)
    assert together == {f"networks.{i}.{name}" for i in range(2) for name in alone}


# Muon ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 96, 32), (1, 16, 64), (3, 24, 40)])
def test_orthogonalize(shape):
    matrices = torch.randn(shape, generator=generator())
    singular_values = torch.linalg.svdvals(orthogonalize(matrices))
    assert singular_values.min() > 0.6
    assert singular_values.max() < 1.2


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="needs torch 2.9 for torch.optim.Muon")
def test_muon_steps_like_torch():
    """PyTorch's Muon computes in bf16, so the weight matrices match only approximately."""
    network = small_vit()
    start = copy.deepcopy(network)
    other = copy.deepcopy(network)
    ours = Muon(muon_groups(network, 0.1), lr=0.02, betas=(0.9, 0.99))
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
        for p, q in zip(network.parameters(), other.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=generator(seed))
            q.grad = p.grad.clone()
        for optimizer in (ours, muon, adamw):
            optimizer.step()
    matrices = {id(p) for p in hidden["params"]}
    triples = zip(start.parameters(), network.parameters(), other.parameters(), strict=True)
    for before, actual, expected in triples:
        if id(expected) in matrices:
            assert (actual - expected).norm() < 0.05 * (expected - before).norm()
        else:
            torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)


def test_muon_reads_a_convolution_as_a_matrix():
    filters = torch.randn(16, 8, 3, 3, requires_grad=True)
    matrix = filters.detach().flatten(1).clone().requires_grad_()
    filters.grad = torch.randn_like(filters)
    matrix.grad = filters.grad.flatten(1)
    for weight in (filters, matrix):
        group = {"params": [weight], "weight_decay": 0.1, "muon": True}
        Muon([group], lr=0.1, betas=(0.9, 0.99)).step()
    torch.testing.assert_close(filters.flatten(1), matrix)


def test_muon_with_constant_norm():
    """Each step is 12 lr along the orthogonalized gradient, starting from norm sqrt(outputs)."""
    weight = torch.randn(16, 8, 3, 3, generator=generator(0)).requires_grad_()
    start = weight.detach() * (16**0.5 / weight.detach().norm())
    weight.grad = torch.randn(weight.shape, generator=generator(1))
    u, _, v = torch.linalg.svd(weight.grad.flatten(1), full_matrices=False)
    group = {"params": [weight], "muon": True, "constant_norm": True}
    Muon([group], lr=0.01, betas=(0.9, 0.99)).step()
    change = (weight.detach() - start).flatten(1) / (0.01 * Muon.STEM_RATE)
    values = torch.linalg.svdvals(change)
    assert 0.6 < values.min() and values.max() < 1.2
    assert torch.cosine_similarity(change.flatten(), -(u @ v).flatten(), dim=0) > 0.98


def test_muon_momentum():
    """After one step, the stored momentum is (1 - momentum) times the gradient."""
    network = small_vit(stem_layers=2)
    config = TrainingConfig(optimizer="muon", constant_norm=True, momentum=0.6)
    optimizer = build_optimizer(network, config)
    weights = [network.blocks[0].mlp[0].weight, network.embed.stages[1].conv1.weight]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    for weight in weights:
        stored = optimizer.state[weight]["momentum"]
        torch.testing.assert_close(stored, torch.full_like(stored, 0.4))


# Learning rate ------------------------------------------------------------------------------------

SCHEDULE = {"total_steps": 101, "warmup_steps": 20, "peak": 0.1, "floor": 0.01}


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.1 / 21),  # first step
        (19, 0.1 * 20 / 21),
        (20, 0.1),  # peak
        (40, 0.01 + 0.09 * (1 + math.cos(math.pi / 4)) / 2),
        (60, 0.055),  # middle of the cosine decay
        (100, 0.01),  # last step
        (10_000, 0.01),
    ],
)
def test_learning_rate(step, expected):
    assert learning_rate(step, **SCHEDULE) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(19, 0.1 * 20 / 21), (20, 0.1), (40, 0.0775), (100, 0.01), (10_000, 0.01)],
)
def test_linear_decay(step, expected):
    assert learning_rate(step, **SCHEDULE, decay="linear") == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("decay", ["cosine", "linear"])
@pytest.mark.parametrize(
    ("total_steps", "warmup_steps"), [(10, 0), (1, 0), (2, 1), (10, 9), (10, 10), (10, 30)]
)
def test_learning_rate_of_short_runs(total_steps, warmup_steps, decay):
    steps = range(total_steps + 2)
    rates = [learning_rate(step, total_steps, warmup_steps, 0.1, 0.0, decay) for step in steps]
    assert all(0 <= rate <= 0.1 for rate in rates)
    assert rates[0] > 0
    if warmup_steps < total_steps:
        assert rates[warmup_steps] == pytest.approx(0.1)
