"""The Vision Transformer as a whole; test_names.py compares it with torchvision and timm."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
import vits
from batches import overfit
from torch import nn
from vits import SMALL, patchify, randomize

from src.errors import InputError
from src.models.blocks import sincos_positions
from src.models.stem import Whiten

POOLS = ("cls", "mean", "sequence")
VARIANTS = list(itertools.product(POOLS, ("learned", "sincos"), (0, 2)))
# From torchvision's documentation of ViT-B/16 and ViT-L/16, and timm's ViTs of the other sizes.
PARAMETERS = {
    "Ti": 5_717_416,
    "S": 22_050_664,
    "B": 86_567_656,
    "L": 304_326_632,
}


def vit(stem_layers=0, patch_size=4, **options):
    """Return a small network for 16 x 16 images in 5 classes, in training mode."""
    patch_size = None if stem_layers else patch_size
    small = SMALL | options
    return vits.vit(16, patch_size, 5, 3, stem_layers=stem_layers, **small)


def inputs(batch=8, stem_layers=0):
    shape = (3, 16, 16) if stem_layers else (16, 48)
    return torch.randn(batch, *shape)


# Architecture -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", PARAMETERS)
def test_parameters_of_the_sizes(size):
    with torch.device("meta"):
        network = vits.vit(224, 16, 1000, 3, size=size)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[size]


def test_width_depth_and_heads_override_the_size():
    network = vit(size="Ti", width=None, depth=2, heads=6)
    assert network.norm.normalized_shape == (192,)
    assert len(network.blocks) == 2
    assert network.blocks[0].attention.heads == 6


@pytest.mark.parametrize(("pool", "positions", "stem_layers"), VARIANTS)
def test_shapes_and_gradients(pool, positions, stem_layers):
    network = randomize(vit(stem_layers, pool=pool, positions=positions))
    x = inputs(stem_layers=stem_layers)
    features, logits = network.features(x), network(x)
    assert features.shape == (8, 32)
    assert logits.shape == (8, 5)
    torch.testing.assert_close(network.head(features), logits)
    F.cross_entropy(logits, torch.arange(8) % 5).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-6, name


@pytest.mark.parametrize("pool", POOLS)
def test_images_give_the_logits_of_their_patches(pool):
    network = randomize(vit(pool=pool))
    images = torch.randn(3, 3, 16, 16)
    patches = patchify(images, 4)
    torch.testing.assert_close(network(images), network(patches), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pool", POOLS)
def test_only_positions_reveal_the_order_of_patches(pool):
    network = randomize(vit(pool=pool))
    x = inputs()
    shuffled = x[:, torch.randperm(16)]
    assert not torch.allclose(network(x), network(shuffled), atol=1e-3)
    with torch.no_grad():
        network.positions[:, -16:] = 0.1
    torch.testing.assert_close(network(x), network(shuffled), atol=1e-5, rtol=0)


def test_fixed_positions_are_saved_and_not_trained():
    network = vit(positions="sincos")
    assert "positions" in network.state_dict()
    assert "positions" not in dict(network.named_parameters())
    class_token, *patches = network.positions[0]
    assert not class_token.any()
    assert torch.equal(torch.stack(patches), sincos_positions(4, 32))


def test_mean_pooling_is_the_mean_of_all_tokens():
    network = randomize(vit(pool="mean"))
    tokens = []
    network.norm.register_forward_hook(lambda module, args, out: tokens.append(out))
    features = network.features(inputs())
    assert tokens[0].shape == (8, 16, 32), "no class token"
    torch.testing.assert_close(features, tokens[0].mean(dim=1))


@pytest.mark.parametrize("stem_layers", [0, 2])
def test_mirror_averages_both_views_in_evaluation_only(stem_layers):
    network = randomize(vit(stem_layers, pool="mean", mirror=True)).eval()
    images = torch.randn(3, 3, 16, 16)
    mirrored = images.flip(3)
    both = network(images)
    if not stem_layers:
        torch.testing.assert_close(network(patchify(images, 4)), both)
    network.mirror = False
    single = network(images)
    torch.testing.assert_close(both, (single + network(mirrored)) / 2)
    assert not torch.allclose(both, single)
    network.train()
    trained = network(images)
    network.mirror = True
    torch.testing.assert_close(network(images), trained)


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
        *block.attention.qkv.weight.chunk(3),  # three matrices, not one that stacks them
        block.attention.out.weight,
        block.mlp[0].weight,
        block.mlp[3].weight,
    )
    for weight in xavier:
        assert std(weight) == pytest.approx(math.sqrt(2 / sum(weight.shape)), rel=0.02)
    assert std(network.embed.weight) == pytest.approx(math.sqrt(1 / 48), rel=0.05)
    assert std(network.positions) == pytest.approx(0.02, rel=0.05)
    assert std(block.mlp[0].bias) == pytest.approx(1e-6, rel=0.2)
    norms = [m for m in network.modules() if isinstance(m, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6}


def std(tensor) -> float:
    return tensor.std().item()


@pytest.mark.parametrize(
    ("pool", "positions", "stem_layers"),
    [("cls", "learned", 0), ("mean", "sincos", 0), ("sequence", "learned", 2)],
)
def test_batch_of_8_overfits(pool, positions, stem_layers):
    network = vit(stem_layers, pool=pool, positions=positions)
    x = inputs(stem_layers=stem_layers)
    losses = overfit(network, x, torch.arange(8) % 5, steps=150)
    assert losses[0] == pytest.approx(math.log(5), abs=1e-5), "the head starts at zero"
    assert losses[-1] < 0.01


def test_whitening_filters_are_not_trained():
    network = vit(2, whiten=True)
    name = "embed.whiten.filters.weight"
    filters = network.get_parameter(name)
    assert torch.equal(filters, Whiten(3).filters.weight)
    logits = randomize(network)(inputs(stem_layers=2))
    F.cross_entropy(logits, torch.arange(8) % 5).backward()
    frozen = [name for name, p in network.named_parameters() if p.grad is None]
    assert frozen == [name]


@pytest.mark.parametrize("name", ["dropout", "attention_dropout", "drop_path"])
def test_dropout_acts_in_training_only(name):
    network = randomize(vit(**{name: 0.5}))
    plain = vit()
    plain.load_state_dict(network.state_dict())
    x = inputs()
    assert not torch.allclose(network(x), network(x), atol=1e-3)
    network.eval()
    torch.testing.assert_close(network(x), plain(x))


def test_dropout_follows_the_embedding_the_attention_and_both_mlp_layers():
    network = vit(dropout=0.5)
    rates = [m.p for m in network.modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.5] * (1 + 3 * 2)
    seen = []
    network.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    network(inputs())
    dropped = (seen[0] == 0).float()
    assert dropped.mean().item() == pytest.approx(0.5, abs=0.1)


def test_drop_path_grows_linearly_with_depth():
    network = vit(depth=5, drop_path=0.4)
    rates = [block.drop_path.rate for block in network.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


# Mistakes; test_mistakes.py has more --------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": -4}, "patch_size -4 does not divide the image size 16x16; choose one of 1"),
        ({"size": "XL"}, "model.size must be one of Ti, S, B, L, got XL"),
        ({"positions": "sincos", "width": 30, "heads": 3}, "width divisible by 4, got 30"),
        ({"stem_layers": 5}, "model.stem_layers 5: .* 16 pixels cannot be halved 5 times"),
        ({"drop_path": math.nan}, "must be at least 0 and below 1, got nan"),
    ],
)
def test_sizes_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        vit(**options)
