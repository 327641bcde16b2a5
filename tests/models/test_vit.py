"""The Vision Transformer against its equations, and as something that can be trained; `test_names.py` compares it with
torchvision and timm."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from batches import overfit
from torch import nn
from vits import SMALL, patchify, randomize

from src.errors import InputError
from src.models.stem import Whiten
from src.models.vit import (
    Attention,
    Block,
    DropPath,
    SequencePool,
    VisionTransformer,
    sincos_positions,
)

VARIANTS = list(itertools.product(["cls", "mean", "sequence"], ["learned", "sincos"], [0, 2]))


def vit(stem_layers=0, **options):
    shape = {
        "image_size": 16,
        "patch_size": None if stem_layers else 4,
        "channels": 3,
        "classes": 5,
    }
    return VisionTransformer(**shape | SMALL | {"stem_layers": stem_layers} | options)


def inputs(batch=8, stem_layers=0):
    return torch.randn(batch, 3, 16, 16) if stem_layers else torch.randn(batch, 16, 48)


# Parameters in torchvision's documentation of ViT-B/16 and ViT-L/16, and in timm's ViTs of the other two sizes
@pytest.mark.parametrize(
    ("size", "count"), {"Ti": 5_717_416, "S": 22_050_664, "B": 86_567_656, "L": 304_326_632}.items()
)
def test_parameters_of_the_sizes(size, count):
    with torch.device("meta"):
        network = VisionTransformer(
            image_size=224, patch_size=16, channels=3, classes=1000, size=size
        )
    assert sum(p.numel() for p in network.parameters()) == count


def test_width_depth_and_heads_override_the_size():
    network = vit(size="Ti", width=None, depth=2, heads=6)
    assert network.norm.normalized_shape == (192,) and len(network.blocks) == 2
    assert network.blocks[0].attention.heads == 6


def test_attention_is_scaled_by_the_width_of_a_head():
    """Equations 5 to 8 in loops, for a head width that is neither the number of tokens nor the width of the model."""
    width, heads, tokens = 24, 3, 5
    attention = Attention(width, heads).eval().requires_grad_(False)
    x = torch.randn(2, tokens, width)
    q, k, v = (
        x @ w.T + b
        for w, b in zip(attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3), strict=True)
    )
    out = torch.zeros(2, tokens, width)
    for sample, head, i in itertools.product(range(2), range(heads), range(tokens)):
        part = slice(8 * head, 8 * head + 8)
        scores = [
            float(q[sample, i, part] @ k[sample, j, part]) / math.sqrt(8) for j in range(tokens)
        ]
        weights = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
        out[sample, i, part] = sum(weights[j] * v[sample, j, part] for j in range(tokens))
    torch.testing.assert_close(
        attention(x), out @ attention.out.weight.T + attention.out.bias, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("pool", ["cls", "mean", "sequence"])
def test_images_give_the_logits_of_their_patches(pool):
    network, images = randomize(vit(pool=pool)), torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(network(images), network(patchify(images, 4)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("pool", "positions", "stem_layers"), VARIANTS)
def test_gradients_reach_every_parameter(pool, positions, stem_layers):
    network = randomize(vit(stem_layers, pool=pool, positions=positions))
    F.cross_entropy(network(inputs(stem_layers=stem_layers)), torch.arange(8) % 5).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-6, name


def test_gradients_pass_by_the_fixed_filters_of_a_whitened_stem():
    network = vit(2, whiten=True)
    assert torch.equal(network.embed.whiten.filters.weight, Whiten(3).filters.weight)
    network = randomize(network)
    F.cross_entropy(network(inputs(stem_layers=2)), torch.arange(8) % 5).backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert without == ["embed.whiten.filters.weight"]


@pytest.mark.parametrize(
    ("pool", "positions", "stem_layers"),
    [("cls", "learned", 0), ("mean", "sincos", 0), ("sequence", "learned", 2)],
)
def test_a_batch_of_8_overfits(pool, positions, stem_layers):
    network = vit(stem_layers, pool=pool, positions=positions)
    losses = overfit(network, inputs(stem_layers=stem_layers), torch.arange(8) % 5, steps=150)
    assert losses[0] == pytest.approx(math.log(5), abs=1e-5), (
        "a head of zeros gives every class the same logit"
    )
    assert losses[-1] < 0.01


@pytest.mark.parametrize(("pool", "positions", "stem_layers"), VARIANTS)
def test_shapes_features_and_state_dict(pool, positions, stem_layers):
    options = {"pool": pool, "positions": positions, "stem_layers": stem_layers}
    network, x = randomize(vit(**options)).eval(), inputs(3, stem_layers)
    assert network(x).shape == (3, 5) and network.features(x).shape == (3, 32)
    headless = vit(classes=0, **options).eval()
    headless.load_state_dict(
        {k: v for k, v in network.state_dict().items() if not k.startswith("head.")}
    )
    torch.testing.assert_close(headless(x), network.features(x))
    torch.testing.assert_close(network.head(network.features(x)), network(x))


@pytest.mark.parametrize("name", ["dropout", "attention_dropout", "drop_path"])
def test_each_kind_of_dropout_acts_in_training_alone(name):
    network, plain, x = randomize(vit(**{name: 0.5})), vit(), inputs()
    plain.load_state_dict(network.state_dict())
    assert not torch.allclose(network(x), network(x), atol=1e-3)
    torch.testing.assert_close(network.eval()(x), plain(x))


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    drop = DropPath(0.25)
    out = drop(torch.ones(20_000, 3, 4)).flatten(1)
    kept = out[:, 0] != 0
    assert torch.equal(out, out[:, :1].expand_as(out)), "a sample is dropped as a whole"
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 1 / 0.75))
    assert kept.float().mean() == pytest.approx(0.75, abs=0.015) and out.mean() == pytest.approx(
        1, abs=0.02
    )
    x = torch.randn(4, 3, 4)
    assert drop.eval()(x) is x


def test_drop_path_takes_both_branches_of_a_block():
    block, x = Block(32, 4, 2.0, 0.0, 0.0, drop_path=1 - 1e-6), torch.randn(8, 16, 32)
    assert torch.equal(block(x), x) and not torch.equal(block.eval()(x), x)


def test_dropout_stands_after_the_embedding_the_attention_and_both_mlp_layers():
    network = vit(dropout=0.5)
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.5] * (1 + 3 * 2)
    seen = []
    network.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    network(inputs())
    assert (seen[0] == 0).float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_drop_path_grows_linearly_with_depth():
    rates = [block.drop_path.rate for block in vit(depth=5, drop_path=0.4).blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_sincos_positions_follow_the_formula():
    positions = sincos_positions(7, 32)
    assert positions.shape == (49, 32) and positions.dtype == torch.float32
    for row, column, k in itertools.product(range(7), range(7), range(8)):
        frequency = 10_000 ** -(k / 7)
        expected = [f(p * frequency) for p in (column, row) for f in (math.sin, math.cos)]
        assert positions[7 * row + column, k::8].tolist() == pytest.approx(expected, abs=1e-6)
    distances = torch.cdist(positions, positions) + 9 * torch.eye(49)
    assert distances.min() > 0.5, "no two positions are alike"


def test_fixed_positions_are_saved_and_not_trained():
    network = vit(positions="sincos")
    assert "positions" in network.state_dict() and "positions" not in dict(
        network.named_parameters()
    )
    assert (
        torch.equal(network.positions[0, 1:], sincos_positions(4, 32))
        and not network.positions[0, 0].any()
    )
    assert vit(pool="mean", positions="sincos").positions.shape == (1, 16, 32)


@pytest.mark.parametrize("pool", ["cls", "mean", "sequence"])
def test_positions_tell_the_order_of_patches(pool):
    """Without positions a ViT cannot see the order of its patches; with them it does."""
    network, x = randomize(vit(pool=pool)), inputs()
    shuffled = x[:, torch.randperm(16)]
    assert not torch.allclose(network(x), network(shuffled), atol=1e-3)
    with torch.no_grad():
        network.positions[:, -16:] = 0.1
    torch.testing.assert_close(network(x), network(shuffled), atol=1e-5, rtol=0)


def test_sequence_pooling_is_a_weighted_mean():
    pool, x = SequencePool(8), torch.randn(2, 5, 8)
    weights = torch.exp(x @ pool.score.weight[0])
    expected = (weights[:, :, None] * x).sum(1) / weights.sum(1, keepdim=True)
    torch.testing.assert_close(pool(x), expected)


def test_mean_pooling_is_the_mean_of_all_tokens():
    network, x = randomize(vit(pool="mean")).eval(), inputs()
    tokens = []
    network.norm.register_forward_hook(lambda module, args, out: tokens.append(out))
    torch.testing.assert_close(network.features(x), tokens[0].mean(dim=1))
    assert tokens[0].shape == (8, 16, 32), "no class token"


def test_initial_weights():
    network = VisionTransformer(image_size=32, patch_size=4, channels=3, classes=10, size="S")
    attention, mlp = network.blocks[0].attention, network.blocks[0].mlp
    assert (
        not network.head.weight.any()
        and not network.head.bias.any()
        and not network.class_token.any()
    )
    assert not attention.qkv.bias.any()
    for weight in [
        *attention.qkv.weight.chunk(3),
        attention.out.weight,
        mlp[0].weight,
        mlp[3].weight,
    ]:
        xavier = math.sqrt(
            2 / sum(weight.shape)
        )  # of query, key and value alone, not of the three stacked
        assert weight.std().item() == pytest.approx(xavier, rel=0.02)
    assert network.embed.weight.std().item() == pytest.approx(math.sqrt(1 / 48), rel=0.05)
    assert network.positions.std().item() == pytest.approx(0.02, rel=0.05)
    assert mlp[0].bias.std().item() == pytest.approx(1e-6, rel=0.2)
    assert all(m.eps == 1e-6 for m in network.modules() if isinstance(m, nn.LayerNorm))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"patch_size": 5},
            "patch_size 5 does not divide the image size 16x16; choose one of 1, 2, 4, 8, 16",
        ),
        ({"patch_size": -4}, "patch_size -4 does not divide"),
        (
            {"patch_size": None},
            "patch_size null and stem_layers 0: a convolutional stem reads whole images",
        ),
        ({"heads": 5}, "heads 5 does not divide width 32; choose one of 1, 2, 4, 8, 16"),
        ({"width": -32}, "width -32, depth 2 and heads 4 must all be at least 1"),
        ({"mlp_ratio": math.nan}, "mlp_ratio nan gives no number of hidden units"),
        ({"width": 10**6}, "width 1000000, depth 2 and mlp_ratio 2 make 1.6e+13 parameters"),
        ({"size": "XL"}, "size 'XL' is unknown; choose one of Ti, S, B, L"),
        ({"pool": "max"}, "pool 'max' is unknown; choose one of cls, mean, sequence"),
        ({"positions": "none"}, "positions 'none' is unknown; choose one of learned, sincos"),
        ({"positions": "sincos", "width": 30, "heads": 3}, "4 divides, not 30"),
        ({"stem_layers": 5}, "stem_layers 5: image_size 16 cannot be halved so often"),
        ({"stem_layers": -1}, "stem_layers -1: use 0 for a plain ViT"),
        ({"dropout": 1.0}, "1.0"),
        ({"attention_dropout": -0.1}, "-0.1"),
        ({"drop_path": math.nan}, "nan"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit(options, message):
    with pytest.raises(InputError) as caught:
        vit(**options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("way", [{"patch_size": None, "stem_layers": 2}, {"patch_size": 4}])
def test_mirror_is_the_mean_of_both_views_in_evaluation_alone(way):
    arguments = {"image_size": 16, "channels": 3, "classes": 5, "pool": "mean", **way}
    net = VisionTransformer(**arguments, width=8, depth=1, heads=2, mirror=True)
    torch.nn.init.normal_(net.head.weight)
    x = torch.randn(3, 3, 16, 16)
    net.eval()
    both = net(x)
    torch.testing.assert_close(both, net(x.flip(3)))
    if net.patch_size:
        torch.testing.assert_close(net(patchify(x, 4)), both)
    net.mirror = False
    torch.testing.assert_close(both, (net(x) + net(x.flip(3))) / 2)
    assert not torch.allclose(both, net(x))
    trained = net.train()(x)
    net.mirror = True
    torch.testing.assert_close(net(x), trained)
