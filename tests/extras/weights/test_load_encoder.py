"""Test `--model.init_from` with weights from torchvision, timm and this project's checkpoints."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models
from vits import (
    SMALL,
    assert_same_logits,
    checkpoint,
    dataset,
    load_error,
    ours,
    save,
    small_timm,
    torchvision_vit,
)

from src.extras.weights.load_encoder import initialize, load_encoder, resample_positions
from src.extras.weights.names import TIMM, from_ours
from src.extras.weights.read_encoder import HEADS
from src.training.classifier import ViT

STEM = {"patch_size": None, "stem_layers": 3}


def save_checkpoint(folder, network, average=None, patch_size=8, **options):
    """Write a checkpoint of a network built with the given options."""
    state = {f"net.{key}": value for key, value in network.state_dict().items()}
    if average:
        state |= {f"ema.{key}": value for key, value in average.state_dict().items()}
    return checkpoint(folder, state, images=dataset(patch_size=patch_size), **options)


# Weight files from torchvision and timm


@pytest.mark.parametrize(
    ("make", "library", "prefix", "parent"),
    [
        (torchvision_vit, "torchvision", "heads.head.", "model"),
        (small_timm, "timm", "head.", "state_dict"),
    ],
)
def test_features_match_the_source(tmp_path, make, library, prefix, parent):
    theirs = make(classes=5)
    state = theirs.state_dict()
    content = {parent: state, "epoch": 3}
    mine = ours()
    head = mine.head.weight.clone()
    report = load_encoder(mine, str(save(tmp_path, content, "weights.bin")))
    assert torch.equal(mine.head.weight, head)
    assert report.splitlines()[1:] == [
        "  loaded     30 tensors",
        "  resampled  nothing",
        "  new        head (7 classes)",
        "  heads      4 (unknown in the source)",
    ]
    assert f"({library} names)" in report

    mine.head = nn.Linear(32, 5)
    mine.head.weight.data = state[prefix + "weight"]
    mine.head.bias.data = state[prefix + "bias"]
    assert_same_logits(mine, theirs, 8, 24)


def test_safetensors(tmp_path):
    theirs = small_timm()
    mine = ours()
    path = tmp_path / "weights.safetensors"
    save_file(theirs.state_dict(), path)
    load_encoder(mine, str(path))
    mine.head.load_state_dict(theirs.head.state_dict())
    assert_same_logits(mine, theirs, 8, 24)

    path.write_bytes(b"not tensors")
    assert "cannot be loaded" in load_error(mine, path)


# Checkpoints of this project


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        STEM | {"pool": "sequence", "whiten": True},
        {"positions": "sincos"},
    ],
)
def test_our_checkpoint(tmp_path, options, averaged):
    trained = ours(**options)
    average = ours(**options) if averaged else None
    mine = ours(classes=3, **options)
    head = {f"head.{key}": value.clone() for key, value in mine.head.state_dict().items()}
    path = save_checkpoint(tmp_path, trained, average, **options)
    report = load_encoder(mine, str(path))
    assert ("averaged weights" if averaged else "trained weights") in report
    assert "head (3 classes)" in report
    expected = (average or trained).state_dict() | head
    assert all(torch.equal(value, expected[key]) for key, value in mine.state_dict().items())


def test_initialize_loads_the_network_and_its_average(tmp_path):
    path = save(tmp_path, torchvision_vit().state_dict())
    model = ViT(dataset(), init_from=str(path), ema_decay=0.9, **SMALL)
    assert "torchvision names" in initialize(model)
    assert model.initialized
    expected = ours()
    load_encoder(expected, str(path))
    for network in (model.net, model.ema):
        assert torch.equal(network.positions, expected.positions)
        assert torch.equal(network.norm.bias, expected.norm.bias)


def test_fixed_positions_on_a_new_grid(tmp_path):
    small = ours(positions="sincos")
    path = str(save(tmp_path, from_ours(small.state_dict(), TIMM)))
    large = ours(positions="sincos", image_size=40)
    fixed = large.positions.clone()
    assert "positions from 3x3 to 5x5" in load_encoder(large, path)
    assert torch.equal(large.positions, fixed)
    learned = ours(image_size=40)
    load_encoder(learned, path)
    assert torch.equal(learned.positions, resample_positions(small.positions, 5, 1))


def test_error_lists_the_settings_of_our_checkpoint(tmp_path):
    options = STEM | {"heads": 2, "whiten": True}
    path = save_checkpoint(tmp_path, ours(**options), **options)
    message = load_error(ours(), path)
    assert "has heads=2, stem_layers=3, whiten=True, patch_size=None, but the model" in message
    flags = "--model.heads 2 --model.stem_layers 3 --model.whiten true --data.patch_size null"
    assert f"set {flags}" in message


# torchvision:vit_*


def test_torchvision_source(monkeypatch):
    theirs = torchvision_vit(image_size=56, classes=1000)
    expected = {
        "check_hash": True,
        "map_location": "cpu",
        "weights_only": True,
    }

    def get_state_dict(weights, **options):
        assert weights is models.ViT_B_32_Weights.DEFAULT
        assert options == expected
        return theirs.state_dict()

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", get_state_dict)
    monkeypatch.setitem(HEADS, (32, 2), 4)
    mine = ours()
    report = load_encoder(mine, "torchvision:vit_b_32")
    assert "positions from 7x7 to 3x3" in report
    assert torch.equal(mine.blocks[1].mlp[3].weight, theirs.encoder.layers[1].mlp[3].weight)


@pytest.mark.parametrize("name", ["vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"])
def test_head_counts_match_torchvision(name):
    with torch.device("meta"):
        theirs = models.get_model(name, weights=None)
    size = (theirs.hidden_dim, len(theirs.encoder.layers))
    assert HEADS[size] == theirs.encoder.layers[0].num_heads
