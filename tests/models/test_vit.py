"""Test the Vision Transformer. Comparisons with torchvision and timm are in test_names.py."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
import vits
from torch import nn
from torch.testing import assert_close
from vits import SMALL, patchify, randomize

from src.errors import InputError

POOLS = ("cls", "mean", "max", "sequence")
POSITIONS = ("learned", "sincos")
STEM_LAYERS = (0, 2)
VARIANTS = [
    *itertools.product(POOLS, POSITIONS, STEM_LAYERS),
    ("mean", "local", 0),
    ("max", "local", 0),
    ("sequence", "local", 2),
]
LABELS = torch.arange(8) % 5
CLOSE = {"atol": 1e-5, "rtol": 0}
# B and L are from torchvision's documentation (ViT-B/16, ViT-L/16); Ti and S are from timm.
PARAMETERS = {
    "Ti": 5_717_416,
    "S": 22_050_664,
    "B": 86_567_656,
    "L": 304_326_632,
}


def vit(stem_layers=0, patch_size=4, **options):
    """Return a small network for 16x16 images and 5 classes, in training mode."""
    patch_size = None if stem_layers else patch_size
    small = SMALL | options
    return vits.vit(
        image_size=16,
        patch_size=patch_size,
        classes=5,
        stem_layers=stem_layers,
        **small,
    )


def inputs(stem_layers=0):
    """Return a batch of eight random images for a stem, or their patches for a plain network."""
    if stem_layers:
        return torch.randn(8, 3, 16, 16)
    return torch.randn(8, 16, 48)


# Architecture -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", PARAMETERS)
def test_parameters_of_the_sizes(size):
    with torch.device("meta"):
        network = vits.vit(image_size=224, patch_size=16, classes=1000, size=size)
    parameters = [p.numel() for p in network.parameters()]
    assert sum(parameters) == PARAMETERS[size]


@pytest.mark.parametrize(("pool", "positions", "stem_layers"), VARIANTS)
def test_shapes_and_gradients(pool, positions, stem_layers):
    network = randomize(vit(stem_layers, pool=pool, positions=positions))
    x = inputs(stem_layers=stem_layers)

    features = network.features(x)
    logits = network(x)
    assert features.shape == (8, 32)
    assert logits.shape == (8, 5)
    assert_close(network.head(features), logits)

    F.cross_entropy(logits, LABELS).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-6, name


@pytest.mark.parametrize("pool", POOLS)
def test_only_positions_reveal_the_order_of_patches(pool):
    network = randomize(vit(pool=pool))
    x = inputs()
    shuffled = x[:, torch.randperm(16)]

    assert not torch.allclose(network(x), network(shuffled), atol=1e-3)
    with torch.no_grad():
        network.positions[:, -16:] = 0.1
    assert_close(network(x), network(shuffled), **CLOSE)


@pytest.mark.parametrize("stem_layers", [0, 2])
def test_mirror_averages_both_views_in_evaluation_only(stem_layers):
    network = randomize(vit(stem_layers, pool="mean", mirror=True))
    network.eval()
    images = torch.randn(3, 3, 16, 16)
    mirrored = images.flip(3)

    both = network(images)
    if not stem_layers:
        assert_close(network(patchify(images, 4)), both)

    network.mirror = False
    single = network(images)
    assert_close(both, (single + network(mirrored)) / 2)
    assert not torch.allclose(both, single)

    network.train()
    trained = network(images)
    network.mirror = True
    assert_close(network(images), trained)


# Training -----------------------------------------------------------------------------------------


def test_initial_weights():
    network = vits.vit(32, 4, 10, 3, size="S")
    block = network.blocks[0]

    zeros = (
        network.head.weight,
        network.head.bias,
        network.class_token,
        block.attention.qkv.bias,
    )
    assert not any(parameter.any() for parameter in zeros)

    xavier = (
        *block.attention.qkv.weight.chunk(3),  # initialized separately
        block.attention.out.weight,
        block.mlp[0].weight,
        block.mlp[3].weight,
    )
    for weight in xavier:
        variance = 2 / sum(weight.shape)
        assert_std(weight, math.sqrt(variance), rel=0.02)

    assert_std(network.embed.weight, math.sqrt(1 / 48))
    assert_std(network.positions, 0.02)
    assert_std(block.mlp[0].bias, 1e-6, rel=0.2)


def assert_std(parameter, expected: float, rel: float = 0.05) -> None:
    assert parameter.std().item() == pytest.approx(expected, rel=rel)


def test_blocks_initially_compute_the_identity_with_zero_init_residual():
    network = vit(zero_init_residual=True, pool="mean")
    tokens = network.tokens(inputs())
    for block in network.blocks:
        assert_close(block(tokens), tokens, **CLOSE)  # the initial biases of the MLP are tiny
    default = vit(pool="mean").blocks[0]
    assert not torch.allclose(default(tokens), tokens, atol=1e-2)


def test_layer_norms_have_the_papers_epsilon():
    epsilons = [m.eps for m in vit().modules() if isinstance(m, nn.LayerNorm)]
    assert epsilons == [1e-6] * 5


@pytest.mark.parametrize("name", ["dropout", "attention_dropout", "drop_path"])
def test_dropout_acts_in_training_only(name):
    network = randomize(vit(**{name: 0.5}))
    plain = vit()
    plain.load_state_dict(network.state_dict())
    x = inputs()

    assert not torch.allclose(network(x), network(x), atol=1e-3)
    network.eval()
    assert_close(network(x), plain(x))


def test_drop_path_grows_linearly_with_depth():
    network = vit(depth=5, drop_path=0.4)
    rates = [block.drop_path.rate for block in network.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


# Invalid settings; see also test_mistakes.py ------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": -4}, "patch_size -4 does not divide the image size 16x16; choose one of 1"),
        ({"size": "XL"}, "model.size must be one of Ti, S, B, L, got XL"),
        ({"positions": "sincos", "width": 30, "heads": 3}, "width divisible by 4, got 30"),
        ({"positions": "local"}, "model.positions local does not support model.pool cls"),
        ({"stem_layers": 5}, "model.stem_layers 5: .* 16 pixels cannot be halved 5 times"),
    ],
)
def test_sizes_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        vit(**options)
