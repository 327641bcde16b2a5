"""Compare attention rollout with its definition for all kinds of networks."""

import pytest
import torch
import torch.nn.functional as F
from batches import generator
from torch.testing import assert_close
from vits import SMALL, dataset, ours, patchify

from src.config import CNNConfig, ViTConfig
from src.errors import InputError
from src.models.build import build_network
from src.models.cnn import ConvNet
from src.models.rollout import rollout

IMAGES = torch.randn(3, 3, 24, 24, generator=generator())


def by_definition(network, image):
    """Compute equation 1 for one image, block by block."""
    patches = patchify(image[None], 8)
    x = network.embed(patches)
    if network.pool == "cls":
        x = torch.cat([network.class_token, x], dim=1)
    x = x + network.positions
    identity = torch.eye(x.shape[1])
    total = identity

    for block in network.blocks:
        qkv = block.attention.qkv(block.norm1(x))[0]
        # [tokens, 3 D] -> queries, keys and values, each [heads, tokens, head width]
        parts = qkv.unflatten(1, (3, block.attention.heads, -1))
        q, k, _ = parts.permute(1, 2, 0, 3)
        scores = torch.einsum("hid,hjd->hij", q, k)
        weights = F.softmax(scores / q.shape[-1] ** 0.5, dim=-1)
        mean = weights.mean(dim=0)
        total = (mean + identity) / 2 @ total
        x = block(x)

    grid = pooled(network, network.norm(x), total)
    return (grid / grid.sum()).view(network.side, network.side)


def pooled(network, x, total):
    """Return the contribution of each patch to the input of the head, given the rollout matrix."""
    if network.pool == "cls":
        return total[0, 1:]
    if network.pool == "mean":
        return total.mean(dim=0)
    if network.pool == "max":
        return total[x[0].argmax(dim=0)].mean(dim=0)
    scores = network.sequence_pool.score(x)[0, :, 0]
    return scores.softmax(dim=0) @ total


@torch.no_grad()
@pytest.mark.parametrize("pool", ["cls", "mean", "max", "sequence"])
def test_rollout_is_the_product_of_the_blocks_matrices(pool):
    network = ours(pool=pool)
    expected = torch.stack([by_definition(network, image) for image in IMAGES])
    maps = rollout(network, IMAGES)
    assert_close(maps, expected, rtol=1e-4, atol=1e-6)
    assert maps.max() > 1.5 * maps.min()


def test_network_with_a_stem_has_a_map_that_sums_to_one():
    network = ours(pool="mean", patch_size=None, stem_layers=2)
    maps = rollout(network, IMAGES)
    assert maps.shape == (3, 6, 6)
    assert (maps >= 0).all()
    assert_close(maps.sum((1, 2)), torch.ones(3))


def test_map_of_an_ensemble_is_the_mean_of_its_networks():
    config = ViTConfig(**SMALL)
    ensemble = build_network(config, dataset(), ensemble=2)
    ensemble.eval()
    first, second = (rollout(network, IMAGES) for network in ensemble.networks)
    assert_close(rollout(ensemble, IMAGES), (first + second) / 2)


def test_cnn_has_no_attention():
    network = ConvNet(CNNConfig(), dataset(patch_size=None))
    with pytest.raises(InputError, match="ConvNet has no attention; use a ViT run"):
        rollout(network, IMAGES)
