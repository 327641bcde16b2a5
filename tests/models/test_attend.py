"""Test bf16 attention on the CPU and a last block that computes only the class token."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from src.models.blocks import attend


def qkv(dtype=torch.float32):
    """Return random queries, keys and values, each of shape [2, 3, 5, 8]."""
    stacked = torch.randn(3, 2, 3, 5, 8, dtype=dtype)
    return [x.clone().requires_grad_() for x in stacked]


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("queries", [None, 1])
def test_bf16_products_match_fused_attention(queries, has_bias):
    bias = torch.randn(3, 5, 5)[:, :queries] if has_bias else None
    exact = qkv()
    rounded = [x.detach().bfloat16().requires_grad_() for x in exact]

    q, k, v = exact
    q = q[:, :, :queries]
    expected = F.scaled_dot_product_attention(q, k, v, bias)
    assert_close(attend(q, k, v, 0.0, bias), expected)

    q, k, v = rounded
    q = q[:, :, :queries]
    output = attend(q, k, v, 0.0, bias)
    assert output.dtype == torch.bfloat16
    assert_close(output.float(), expected, atol=0.03, rtol=0.03)

    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (output * weights).sum().backward()
    for a, b in zip(exact, rounded, strict=True):
        assert_close(b.grad.float(), a.grad, atol=0.06, rtol=0.06)


def test_dropout_acts_on_the_attention_weights():
    q, k, _ = qkv(torch.bfloat16)
    # If the values are the identity matrix, the output equals the attention weights.
    identity = torch.eye(5, dtype=torch.bfloat16)
    values = identity.expand(2, 3, 5, 5)
    weights = attend(q, k, values, 0.0)
    sums = weights.float().sum(-1)
    assert_close(sums, torch.ones(2, 3, 5), atol=0.02, rtol=0)

    dropped = attend(q, k, values, 0.5)
    kept = dropped != 0
    assert 0.2 < kept.float().mean() < 0.8
    assert torch.equal(dropped[kept], 2 * weights[kept])
