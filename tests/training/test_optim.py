"""Every trainable parameter is in exactly one optimizer group, and only matrices decay."""

import itertools

import pytest
import torch
from vits import dataset, vit

from src.config import CNNConfig
from src.models.cnn import ConvNet
from src.models.ensemble import Ensemble
from src.models.stem import ConvStem
from src.training.optim import muon_groups, parameter_groups


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


VITS = list(itertools.product(["cls", "mean", "sequence"], ["learned", "sincos"], [0, 2]))


@pytest.fixture(params=[*VITS, None], ids=lambda options: str(options or "cnn"))
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


def test_the_groups_of_a_vit():
    network = small_vit()
    decaying, others = parameter_groups(network, 0.05)
    layers = ["attention.qkv", "attention.out", "mlp.0", "mlp.3"]
    blocks = [f"blocks.{i}.{layer}.weight" for i in range(2) for layer in layers]
    assert names_of(decaying, network) == {"embed.weight", "head.weight", *blocks}
    some = {"class_token", "positions", "norm.weight", "blocks.1.norm2.weight", "head.bias"}
    assert some <= names_of(others, network)


def test_a_step_with_zero_gradients_shrinks_only_matrices():
    network = small_vit()
    for parameter in network.parameters():
        parameter.data.fill_(1.0)
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW(parameter_groups(network, 0.5), lr=0.1).step()
    for name, parameter in network.named_parameters():
        expected = 0.95 if parameter.ndim == 2 else 1.0
        torch.testing.assert_close(parameter, torch.full_like(parameter, expected), msg=name)


@pytest.mark.parametrize("make_groups", [parameter_groups, muon_groups])
def test_frozen_parameters_and_empty_groups_are_left_out(make_groups):
    network = small_vit().requires_grad_(False)
    assert make_groups(network, 0.05) == []
    network.head.requires_grad_(True)
    decaying, others = make_groups(network, 0.05)
    assert names_of(decaying, network) == {"head.weight"}
    assert names_of(others, network) == {"head.bias"}
    network.head.bias.requires_grad_(False)
    (only,) = make_groups(network, 0.05)
    assert names_of(only, network) == {"head.weight"}
    assert only["weight_decay"] == 0.05


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


def test_muon_takes_the_first_convolution_after_whitening():
    network = small_vit(stem_layers=2, whiten=True)
    hidden = names_of(muon_groups(network, 0.05)[0], network)
    assert "embed.stages.0.conv1.weight" in hidden
    assert not any("whiten" in name for name in hidden)


def test_muon_groups_of_an_ensemble_are_those_of_its_networks():
    single, ensemble = small_vit(), Ensemble([small_vit(), small_vit()])
    alone = names_of(muon_groups(single, 0.05)[0], single)
    together = names_of(muon_groups(ensemble, 0.05)[0], ensemble)
    assert together == {f"networks.{i}.{name}" for i in range(2) for name in alone}
