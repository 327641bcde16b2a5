"""Attention in bf16 on the CPU, and a last block that computes the class token alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from src.models.vit import VisionTransformer, attend


def qkv(dtype=torch.float32):
    return [torch.randn(2, 3, 5, 8).to(dtype).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("needed", [None, 1])
def test_products_in_bf16_are_attention(needed):
    exact = qkv()
    rounded = [x.detach().bfloat16().requires_grad_() for x in exact]
    outputs = [attend(q[:, :, :needed], k, v, 0.0) for q, k, v in (exact, rounded)]
    assert outputs[1].dtype == torch.bfloat16 and outputs[0].shape == (2, 3, needed or 5, 8)
    assert torch.allclose(
        outputs[0], F.scaled_dot_product_attention(exact[0][:, :, :needed], *exact[1:])
    )
    torch.testing.assert_close(outputs[1].float(), outputs[0], atol=0.03, rtol=0.03)
    weights = torch.randn_like(outputs[0])
    for output in outputs:
        (output * weights).sum().backward()
    for a, b in zip(exact, rounded, strict=True):
        torch.testing.assert_close(b.grad.float(), a.grad, atol=0.06, rtol=0.06)


def test_dropout_falls_on_the_weights():
    q, k, _ = qkv(torch.bfloat16)
    identity = torch.eye(5, dtype=torch.bfloat16).expand(
        2, 3, 5, 5
    )  # the values: what comes out are the weights
    weights, dropped = attend(q, k, identity, 0.0), attend(q, k, identity, 0.5)
    assert torch.allclose(weights.float().sum(-1), torch.ones(2, 3, 5), atol=0.02)
    assert 0.2 < (dropped == 0).float().mean() < 0.8
    assert torch.equal(dropped[dropped != 0], 2 * weights[dropped != 0])


@pytest.mark.parametrize("depth", [1, 3])
def test_the_last_block_leaves_out_only_what_nobody_reads(depth):
    """Logits and gradients are those of a network that computes every token in every block."""
    network = VisionTransformer(
        image_size=8, patch_size=2, channels=1, classes=10, width=16, depth=depth, heads=2
    )
    nn.init.normal_(network.double().head.weight)
    patches = torch.randn(3, 16, 4, dtype=torch.float64)
    logits = network(patches)
    (gradients,) = torch.autograd.grad(
        logits.square().sum(), [network.blocks[0].attention.qkv.weight]
    )

    tokens = (
        torch.cat([network.class_token.expand(3, -1, -1), network.embed(patches)], dim=1)
        + network.positions
    )
    for block in network.blocks:
        tokens = block(tokens)
    assert tokens.shape == (3, 17, 16)
    every = network.head(network.norm(tokens)[:, 0])
    (expected,) = torch.autograd.grad(
        every.square().sum(), [network.blocks[0].attention.qkv.weight]
    )
    torch.testing.assert_close(logits, every)
    torch.testing.assert_close(gradients, expected)
