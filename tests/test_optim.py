"""Every trainable parameter is optimized once, and the learning rate is where it should be."""

import itertools
import math

import pytest
import torch

from src.cnn import ConvNet
from src.optim import learning_rate, parameter_groups
from src.vit import VisionTransformer


def vit(pool="cls", positions="learned", stem_layers=0, classes=10):
    return VisionTransformer(
        image_size=16, patch_size=None if stem_layers else 4, channels=3, classes=classes, width=32, depth=2, heads=4,
        pool=pool, positions=positions, stem_layers=stem_layers,
    )  # fmt: skip


VITS = list(itertools.product(["cls", "mean", "sequence"], ["learned", "sincos"], [0, 2], [0, 10]))
NETWORKS = {"-".join(map(str, options)): (lambda options=options: vit(*options)) for options in VITS}
NETWORKS["cnn"] = lambda: ConvNet(image_size=28, channels=1, classes=10)


def names_of(group, network):
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {names[id(parameter)] for parameter in group["params"]}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_trainable_parameter_is_in_exactly_one_group(name):
    network = NETWORKS[name]()
    grouped = [id(p) for group in parameter_groups(network, 0.05) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_matrices_decay_and_nothing_else(name):
    network = NETWORKS[name]()
    decayed, plain = parameter_groups(network, 0.05)
    assert decayed["weight_decay"] == 0.05 and plain["weight_decay"] == 0.0
    for parameter_name in names_of(plain, network):
        assert parameter_name.endswith("bias") or any(
            part in parameter_name for part in ("norm", "class_token", "positions")
        ), parameter_name
    for parameter_name in names_of(decayed, network):
        assert parameter_name.endswith("weight") and "norm" not in parameter_name, parameter_name


def test_the_groups_of_a_vit_by_name():
    network = vit()
    decayed, plain = parameter_groups(network, 0.05)
    layers = ["attention.qkv", "attention.out", "mlp.0", "mlp.3"]
    blocks = [f"blocks.{i}.{layer}.weight" for i in range(2) for layer in layers]
    assert names_of(decayed, network) == {"embed.weight", "head.weight", *blocks}
    assert {"class_token", "positions", "norm.weight", "norm.bias", "blocks.1.norm2.weight", "head.bias"} <= names_of(
        plain, network
    )


def test_frozen_parameters_are_left_out_and_empty_groups_too():
    network = vit()
    network.requires_grad_(False)
    assert parameter_groups(network, 0.05) == []
    network.head.requires_grad_(True)
    decayed, plain = parameter_groups(network, 0.05)
    assert names_of(decayed, network) == {"head.weight"} and names_of(plain, network) == {"head.bias"}
    network.head.bias.requires_grad_(False)
    [only] = parameter_groups(network, 0.05)
    assert names_of(only, network) == {"head.weight"} and only["weight_decay"] == 0.05


def test_one_step_of_decay_shrinks_matrices_alone():
    """With gradients of zero, AdamW only decays: what moves is what decays."""
    network = vit()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW(parameter_groups(network, 0.5), lr=0.1).step()
    for name, parameter in network.named_parameters():
        shrinks = parameter.ndim == 2
        assert torch.allclose(parameter, torch.tensor(0.95 if shrinks else 1.0)), name


SCHEDULE = {"total_steps": 101, "warmup_steps": 20, "peak": 0.1, "floor": 0.01}


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.1 / 21),  # the first step already learns
        (9, 0.1 * 10 / 21),
        (19, 0.1 * 20 / 21),
        (20, 0.1),  # the peak
        (40, 0.01 + 0.09 * (1 + math.cos(math.pi / 4)) / 2),
        (60, 0.055),  # half way down
        (100, 0.01),  # the last step
        (101, 0.01),
        (10_000, 0.01),
    ],
)
def test_learning_rate(step, expected):
    assert learning_rate(step, **SCHEDULE) == pytest.approx(expected, rel=1e-9)


def test_learning_rate_rises_then_falls_and_depends_on_the_step_alone():
    rates = [learning_rate(step, **SCHEDULE) for step in range(101)]
    assert all(a < b for a, b in itertools.pairwise(rates[:21])) and all(
        a > b for a, b in itertools.pairwise(rates[20:])
    )
    assert max(rates) == rates[20] == 0.1
    steps = torch.randperm(101, generator=torch.Generator().manual_seed(0)).tolist()
    assert [learning_rate(step, **SCHEDULE) for step in steps] == [rates[step] for step in steps]


@pytest.mark.parametrize(("total_steps", "warmup_steps"), [(10, 0), (1, 0), (2, 1), (10, 9), (10, 10), (10, 30)])
def test_short_runs(total_steps, warmup_steps):
    rates = [learning_rate(step, total_steps, warmup_steps, 0.1, 0.0) for step in range(total_steps)]
    assert all(0 <= rate <= 0.1 for rate in rates) and rates[0] > 0
    if warmup_steps < total_steps:
        assert rates[warmup_steps] == pytest.approx(0.1)


def test_without_a_floor_the_last_step_rests():
    assert learning_rate(9, 10, 0, 0.1, 0.0) == pytest.approx(0, abs=1e-12)
