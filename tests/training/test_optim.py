"""Every trainable parameter is optimized once, and the learning rate is where it should be."""

import copy
import itertools
import math

import pytest
import torch

from src.models.cnn import ConvNet
from src.models.ensemble import Ensemble
from src.models.stem import ConvStem
from src.models.vit import VisionTransformer
from src.training.optim import Muon, learning_rate, muon_groups, orthogonalize, parameter_groups


def vit(pool="cls", positions="learned", stem_layers=0, classes=10, whiten=False):
    return VisionTransformer(
        image_size=16, patch_size=None if stem_layers else 4, channels=3, classes=classes, width=32, depth=2, heads=4,
        pool=pool, positions=positions, stem_layers=stem_layers, whiten=whiten,
    )  # fmt: skip


VITS = list(itertools.product(["cls", "mean", "sequence"], ["learned", "sincos"], [0, 2], [0, 10]))
NETWORKS = {
    "-".join(map(str, options)): (lambda options=options: vit(*options)) for options in VITS
}
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
    assert {
        "class_token",
        "positions",
        "norm.weight",
        "norm.bias",
        "blocks.1.norm2.weight",
        "head.bias",
    } <= names_of(plain, network)


def test_frozen_parameters_are_left_out_and_empty_groups_too():
    network = vit()
    network.requires_grad_(False)
    assert parameter_groups(network, 0.05) == []
    network.head.requires_grad_(True)
    decayed, plain = parameter_groups(network, 0.05)
    assert names_of(decayed, network) == {"head.weight"} and names_of(plain, network) == {
        "head.bias"
    }
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


@pytest.mark.parametrize("name", NETWORKS)
def test_muon_takes_hidden_matrices_and_the_other_groups_keep_the_rest(name):
    network = NETWORKS[name]()
    groups = muon_groups(network, 0.05)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters())
    assert groups[0]["muon"] and not any("muon" in group for group in groups[1:])
    hidden = names_of(groups[0], network)
    assert all(network.get_parameter(key).ndim >= 2 and "norm" not in key for key in hidden)
    if name == "cnn":
        assert hidden == {"layers.2.weight", "layers.7.weight"}
    else:
        assert not any(
            key.startswith(("head", "positions", "sequence_pool", "embed.stages.0.conv1"))
            for key in hidden
        )
        assert "embed.weight" not in hidden and "blocks.0.attention.qkv.weight" in hidden
        assert ("embed.stages.1.conv1.weight" in hidden) == isinstance(network.embed, ConvStem)


def test_muon_takes_the_first_convolution_behind_a_whitening():
    network = vit(stem_layers=2, whiten=True)
    hidden = names_of(muon_groups(network, 0.05)[0], network)
    assert "embed.stages.0.conv1.weight" in hidden and not any("whiten" in name for name in hidden)


def test_muon_keeps_first_and_last_matrix_of_every_network_of_an_ensemble():
    single, ensemble = vit(), Ensemble([vit(), vit()])
    alone, together = (
        names_of(muon_groups(network, 0.05)[0], network) for network in (single, ensemble)
    )
    assert together == {f"networks.{i}.{name}" for i in range(2) for name in alone}


def test_muon_leaves_frozen_parameters_out():
    network = vit()
    network.requires_grad_(False)
    network.head.requires_grad_(True)
    decayed, plain = muon_groups(network, 0.05)
    assert names_of(decayed, network) == {"head.weight"} and names_of(plain, network) == {
        "head.bias"
    }


@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 96, 32), (1, 16, 64), (3, 24, 40)])
def test_orthogonalize(shape):
    singular = torch.linalg.svdvals(
        orthogonalize(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    )
    assert singular.min() > 0.6 and singular.max() < 1.2


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_muon_steps_as_torch_does():
    """The same steps as torch.optim.Muon, which works in bfloat16, on matrices; as AdamW on all else."""
    ours, theirs = vit(), vit()
    theirs.load_state_dict(ours.state_dict())
    before = [p.detach().clone() for p in ours.parameters()]
    muon = Muon(muon_groups(ours, 0.1), lr=0.02, betas=(0.9, 0.99))
    hidden, *rest = muon_groups(theirs, 0.1)
    matrices = torch.optim.Muon(
        hidden["params"], lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(rest, lr=0.02, betas=(0.9, 0.99))
    for step in range(3):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.grad = torch.randn(a.shape, generator=torch.Generator().manual_seed(step))
            b.grad = a.grad.clone()
        for optimizer in (muon, matrices, adamw):
            optimizer.step()
    taken = {id(p) for p in hidden["params"]}
    for start, a, b in zip(before, ours.parameters(), theirs.parameters(), strict=True):
        if id(b) in taken:
            assert (a - b).norm() < 0.05 * (b - start).norm()
        else:
            assert torch.allclose(a, b, atol=1e-6)


def test_muon_sees_a_convolution_as_a_matrix():
    torch.manual_seed(0)
    conv, linear = torch.nn.Conv2d(8, 16, 3, bias=False), torch.nn.Linear(72, 16, bias=False)
    linear.weight.data.copy_(conv.weight.flatten(1))
    conv.weight.grad = torch.randn_like(conv.weight)
    linear.weight.grad = conv.weight.grad.flatten(1)
    for layer in (conv, linear):
        group = {"params": [layer.weight], "weight_decay": 0.1, "muon": True}
        Muon([group], lr=0.1, betas=(0.9, 0.99)).step()
    assert torch.allclose(conv.weight.flatten(1), linear.weight, atol=1e-6)


def test_muon_goes_on_from_its_state():
    torch.manual_seed(0)
    network = vit()

    def step(optimizer, seed):
        for p in network.parameters():
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
        optimizer.step()

    def muon():
        return Muon(muon_groups(network, 0.1), lr=0.02, betas=(0.9, 0.99))

    first = muon()
    step(first, 0)
    weights, state = copy.deepcopy(network.state_dict()), copy.deepcopy(first.state_dict())
    step(first, 1)
    expected = copy.deepcopy(network.state_dict())
    network.load_state_dict(weights)
    second = muon()
    second.load_state_dict(state)
    step(second, 1)
    assert all(torch.equal(expected[key], value) for key, value in network.state_dict().items())


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


def test_learning_rate_rises_then_falls():
    rates = [learning_rate(step, **SCHEDULE) for step in range(101)]
    assert all(a < b for a, b in itertools.pairwise(rates[:21]))
    assert all(a > b for a, b in itertools.pairwise(rates[20:]))


@pytest.mark.parametrize(
    ("total_steps", "warmup_steps"), [(10, 0), (1, 0), (2, 1), (10, 9), (10, 10), (10, 30)]
)
def test_short_runs(total_steps, warmup_steps):
    rates = [
        learning_rate(step, total_steps, warmup_steps, 0.1, 0.0) for step in range(total_steps)
    ]
    assert all(0 <= rate <= 0.1 for rate in rates) and rates[0] > 0
    if warmup_steps < total_steps:
        assert rates[warmup_steps] == pytest.approx(0.1)
