"""Attention rollout, compared with its definition, on networks of every kind."""

import pytest
import torch
import torch.nn.functional as F
from batches import generator
from vits import SMALL, dataset, ours, patchify

from src.config import CNNConfig, ViTConfig
from src.errors import InputError
from src.models.build import build_network
from src.models.cnn import ConvNet
from src.models.rollout import rollout

IMAGES = torch.randn(3, 3, 24, 24, generator=generator())


def by_definition(network, image):
    """Return equation 1 for the class token of one image, one block at a time."""
    x = network.embed(patchify(image[None], 8))
    x = torch.cat([network.class_token, x], dim=1) + network.positions
    identity = torch.eye(network.side**2 + 1)
    total = identity
    for block in network.blocks:
        heads = block.attention.heads
        q, k, _ = block.attention.qkv(block.norm1(x))[0].chunk(3, dim=-1)
        weights = []
        for a, b in zip(q.chunk(heads, dim=-1), k.chunk(heads, dim=-1), strict=True):
            scores = a @ b.T / a.shape[-1] ** 0.5
            weights.append(F.softmax(scores, dim=-1))
        mean = torch.stack(weights).mean(dim=0)
        total = (mean + identity) / 2 @ total
        x = block(x)
    grid = total[0, 1:]
    return (grid / grid.sum()).view(network.side, network.side)


@torch.no_grad()
def test_rollout_is_the_product_of_the_blocks_matrices():
    network = ours()
    expected = torch.stack([by_definition(network, image) for image in IMAGES])
    torch.testing.assert_close(rollout(network, IMAGES), expected, rtol=1e-4, atol=1e-6)


STEM = {"patch_size": None, "stem_layers": 2, "pool": "mean"}


@pytest.mark.parametrize("options", [{}, {"pool": "mean"}, {"pool": "sequence"}, STEM])
def test_map_sums_to_one(options):
    network = ours(**options)
    logits = network(IMAGES)
    maps = rollout(network, IMAGES)
    assert maps.shape == (3, network.side, network.side)
    assert (maps >= 0).all()
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(3))
    assert torch.equal(network(IMAGES), logits), "hooks are left behind"


@torch.no_grad()
def test_network_that_reads_one_token_looks_at_it():
    """Pool by one token only, after a block that attends to all tokens equally."""
    network = ours(pool="sequence", depth=1)
    network.blocks[0].attention.qkv.weight.zero_()
    network.blocks[0].attention.qkv.bias.zero_()
    network.sequence_pool.score.weight.mul_(1e4)
    pooled = []
    network.sequence_pool.register_forward_pre_hook(lambda module, args: pooled.append(args[0]))
    maps = rollout(network, IMAGES)
    weights = network.sequence_pool.weights(pooled[0]).squeeze(2)
    assert torch.equal(maps.flatten(1).argmax(1), weights.argmax(1))


def test_map_of_an_ensemble_is_the_mean_of_its_networks():
    ensemble = build_network(ViTConfig(**SMALL), dataset(), ensemble=2).eval()
    first, second = (rollout(network, IMAGES) for network in ensemble.networks)
    torch.testing.assert_close(rollout(ensemble, IMAGES), (first + second) / 2)


def test_cnn_has_no_attention():
    network = ConvNet(CNNConfig(), dataset(patch_size=None))
    with pytest.raises(InputError, match="ConvNet has no attention; use a run of a ViT"):
        rollout(network, IMAGES)


@torch.no_grad()
def test_compiled_network_has_the_same_map():
    network = ours()
    expected = rollout(network, IMAGES)
    network.compile(backend="eager")
    network(IMAGES)  # compiled now, without hooks
    assert torch.equal(rollout(network, IMAGES), expected)
