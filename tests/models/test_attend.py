"""Attention in bf16 on the CPU, and a last block that computes only the class token."""

import pytest
import torch
import torch.nn.functional as F
from vits import ours

from src.models.blocks import attend


def qkv(dtype=torch.float32):
    return [torch.randn(2, 3, 5, 8).to(dtype).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("queries", [None, 1])
def test_bf16_products_match_fused_attention(queries):
    exact = qkv()
    rounded = [x.detach().bfloat16().requires_grad_() for x in exact]
    q, k, v = exact
    expected = F.scaled_dot_product_attention(q[:, :, :queries], k, v)
    torch.testing.assert_close(attend(q[:, :, :queries], k, v, 0.0), expected)

    q, k, v = rounded
    output = attend(q[:, :, :queries], k, v, 0.0)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, atol=0.03, rtol=0.03)

    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (output * weights).sum().backward()
    for a, b in zip(exact, rounded, strict=True):
        torch.testing.assert_close(b.grad.float(), a.grad, atol=0.06, rtol=0.06)


def test_dropout_acts_on_the_attention_weights():
    q, k, _ = qkv(torch.bfloat16)
    values = torch.eye(5, dtype=torch.bfloat16).expand(2, 3, 5, 5)  # the output is the weights
    weights = attend(q, k, values, 0.0)
    dropped = attend(q, k, values, 0.5)
    kept = dropped != 0
    torch.testing.assert_close(weights.float().sum(-1), torch.ones(2, 3, 5), atol=0.02, rtol=0)
    assert 0.2 < kept.float().mean() < 0.8
    assert torch.equal(dropped[kept], 2 * weights[kept])


@pytest.mark.parametrize("depth", [1, 3])
def test_last_block_skips_only_unused_tokens(depth):
    """Compare with a network that computes every token in every block."""
    network = ours(depth=depth).double()
    patches = torch.randn(3, 9, 192, dtype=torch.float64)
    first = network.blocks[0].attention.qkv.weight

    class_token = network.class_token.expand(3, -1, -1)
    tokens = torch.cat([class_token, network.embed(patches)], dim=1)
    tokens = tokens + network.positions
    for block in network.blocks:
        tokens = block(tokens)
    assert tokens.shape == (3, 10, 32)
    expected = network.head(network.norm(tokens)[:, 0])

    logits = network(patches)
    torch.testing.assert_close(logits, expected)
    gradients = torch.autograd.grad(logits.square().sum(), [first])
    expected_gradients = torch.autograd.grad(expected.square().sum(), [first])
    torch.testing.assert_close(gradients, expected_gradients)
