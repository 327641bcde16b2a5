"""Attention rollout: the definition, step by step, on networks of every kind."""

import pytest
import torch
import torch.nn.functional as F
from vits import ours

from src.errors import InputError
from src.models.build import build
from src.models.cnn import ConvNet
from src.models.rollout import rollout

IMAGES = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def by_hand(network, images):
    """Equation 1 from the class token on, one image and one block at a time."""
    tokens = network.side**2 + 1
    x = network.embed(torch.stack([p.permute(1, 2, 0).flatten() for p in patches(images)])[None])
    x = torch.cat([network.class_token, x], dim=1) + network.positions
    total = torch.eye(tokens)
    for block in network.blocks:
        q, k, _ = block.attention.qkv(block.norm1(x))[0].chunk(3, dim=-1)
        heads = zip(*(part.chunk(block.attention.heads, dim=-1) for part in (q, k)), strict=True)
        mean = torch.stack(
            [F.softmax(a @ b.T / a.shape[-1] ** 0.5, dim=-1) for a, b in heads]
        ).mean(0)
        total = (mean + torch.eye(tokens)) / 2 @ total
        x = block(x)
    grid = total[0, 1:]
    return (grid / grid.sum()).view(network.side, network.side)


def patches(image):
    return [image[:, y : y + 8, x : x + 8] for y in range(0, 24, 8) for x in range(0, 24, 8)]


def test_it_is_the_product_of_the_blocks_matrices():
    network = ours().eval()
    with torch.no_grad():
        expected = torch.stack([by_hand(network, image) for image in IMAGES])
    torch.testing.assert_close(rollout(network, IMAGES), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool": "mean"},
        {"pool": "sequence"},
        {"patch_size": None, "stem_layers": 2, "pool": "mean"},
    ],
)
def test_every_kind_of_network_has_a_map_that_sums_to_one(options):
    network = ours(**options).eval()
    logits, maps = network(IMAGES), rollout(network, IMAGES)
    assert maps.shape == (3, network.side, network.side) and (maps >= 0).all()
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(3))
    assert torch.equal(network(IMAGES), logits), "hooks are left behind"


def test_a_network_that_reads_one_token_looks_at_it():
    """Sequence pooling with a score for one token alone, and blocks that attend to nothing else than themselves."""
    network = ours(pool="sequence", depth=1).eval()
    with torch.no_grad():
        network.blocks[0].attention.qkv.weight.zero_()
        network.blocks[0].attention.qkv.bias.zero_()
        network.sequence_pool.score.weight.mul_(1e4)
    heaviest = rollout(network, IMAGES).flatten(1).argmax(1)
    assert torch.equal(
        heaviest, network.sequence_pool.weights(final_tokens(network)).squeeze(2).argmax(1)
    )


def final_tokens(network):
    seen = []
    hook = network.sequence_pool.register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    with torch.no_grad():
        network(IMAGES)
    hook.remove()
    return seen[0]


def test_an_ensemble_has_the_mean_of_its_networks():
    sizes = {
        "image_size": 24,
        "patch_size": 8,
        "channels": 3,
        "classes": 5,
        "width": 16,
        "depth": 2,
        "heads": 2,
    }
    ensemble = build({"kind": "vit", **sizes}, 2).eval()
    expected = sum(rollout(network, IMAGES) for network in ensemble.networks) / 2
    torch.testing.assert_close(rollout(ensemble, IMAGES), expected)


def test_a_cnn_has_none():
    with pytest.raises(InputError, match="ConvNet has no attention; use a run of a ViT"):
        rollout(ConvNet(image_size=24, channels=3, classes=5), IMAGES)


def test_a_compiled_network_has_the_same_map():
    network = ours().eval()
    expected = rollout(network, IMAGES)
    network.compile(backend="eager")
    with torch.no_grad():
        network(IMAGES)  # compiled now, without hooks
    assert torch.equal(rollout(network, IMAGES), expected)
