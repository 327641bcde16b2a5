"""The parts of a Vision Transformer, compared with their equations."""

import itertools
import math

import pytest
import torch

from src.models.blocks import Attention, Block, DropPath, SequencePool, sincos_positions


@torch.no_grad()
def test_attention_is_scaled_by_the_width_of_a_head():
    """Compute equations 5 to 8 in loops; the head width differs from tokens and model width."""
    width, heads, tokens = 24, 3, 5
    attention = Attention(width, heads).eval()
    x = torch.randn(2, tokens, width)
    weights = attention.qkv.weight.chunk(3)
    biases = attention.qkv.bias.chunk(3)
    q, k, v = (x @ w.T + b for w, b in zip(weights, biases, strict=True))
    attended = torch.zeros(2, tokens, width)
    for sample, head, i in itertools.product(range(2), range(heads), range(tokens)):
        part = slice(8 * head, 8 * head + 8)
        products = [float(q[sample, i, part] @ k[sample, j, part]) for j in range(tokens)]
        exponentials = [math.exp(product / math.sqrt(8)) for product in products]
        for j, exponential in enumerate(exponentials):
            share = exponential / sum(exponentials)
            attended[sample, i, part] += share * v[sample, j, part]
    expected = attended @ attention.out.weight.T + attention.out.bias
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=0)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    drop = DropPath(0.25)
    out = drop(torch.ones(20_000, 3, 4)).flatten(1)
    kept = out[:, 0] != 0
    assert torch.equal(out, out[:, :1].expand_as(out))
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 1 / 0.75))
    assert kept.float().mean() == pytest.approx(0.75, abs=0.015)
    drop.eval()
    x = torch.randn(4, 3, 4)
    assert drop(x) is x


def test_drop_path_acts_on_both_branches_of_a_block():
    block = Block(32, 4, 2.0, drop_path=1 - 1e-6)
    x = torch.randn(8, 16, 32)
    assert torch.equal(block(x), x)
    block.eval()
    assert not torch.equal(block(x), x)


def test_sequence_pooling_is_a_weighted_mean():
    pool = SequencePool(8)
    x = torch.randn(2, 5, 8)
    weights = torch.exp(x @ pool.score.weight[0])
    weighted = weights[:, :, None] * x
    expected = weighted.sum(1) / weights.sum(1, keepdim=True)
    torch.testing.assert_close(pool(x), expected)


def test_sincos_positions_match_the_formula():
    positions = sincos_positions(7, 32)
    assert positions.shape == (49, 32)
    assert positions.dtype == torch.float32
    for row, column, k in itertools.product(range(7), range(7), range(8)):
        frequency = 10_000 ** -(k / 7)
        x, y = column * frequency, row * frequency
        expected = [math.sin(x), math.cos(x), math.sin(y), math.cos(y)]
        actual = positions[7 * row + column, k::8]
        assert actual.tolist() == pytest.approx(expected, abs=1e-6)
