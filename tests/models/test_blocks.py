"""Compare the building blocks of the Vision Transformer with their equations."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from src.models.blocks import (
    Attention,
    DropPath,
    LocalBias,
    SequencePool,
    sincos_positions,
)


@torch.no_grad()
def test_attention_is_scaled_by_the_width_of_a_head():
    """Compute equations 5 to 8 with loops; head width, token count and model width all differ."""
    width, heads, tokens = 24, 3, 5
    head_width = 8
    attention = Attention(width, heads).eval()
    x = torch.randn(tokens, width)
    q, k, v = attention.qkv(x).chunk(3, dim=-1)

    attended = torch.zeros(tokens, width)
    for head, i in itertools.product(range(heads), range(tokens)):
        first = head_width * head
        part = slice(first, first + head_width)
        exponentials = []
        for j in range(tokens):
            product = q[i, part] @ k[j, part]
            exponentials.append(math.exp(product / math.sqrt(head_width)))
        for j, exponential in enumerate(exponentials):
            share = exponential / sum(exponentials)
            attended[i, part] += share * v[j, part]

    expected = attention.out(attended)
    (actual,) = attention(x[None])
    assert_close(actual, expected, atol=1e-5, rtol=0)


def test_local_bias_depends_on_the_offset_between_two_tokens():
    bias = LocalBias(heads=2, side=3)
    torch.nn.init.normal_(bias.table)
    matrix = bias()
    assert matrix.shape == (2, 9, 9)
    for query, key in itertools.product(range(9), range(9)):
        y = key // 3 - query // 3
        x = key % 3 - query % 3
        expected = bias.table[:, 2 + y, 2 + x]
        assert torch.equal(matrix[:, query, key], expected)


def test_every_head_starts_at_a_different_neighbor():
    bias = LocalBias(heads=8, side=3)
    bias.reset_parameters()
    center = 4
    preferred = bias()[:, center].argmax(dim=1)
    assert sorted(preferred.tolist()) == [0, 1, 2, 3, 5, 6, 7, 8]


def test_attention_weights_include_the_local_bias():
    attention = Attention(8, 1, local_side=2)
    attention.bias.reset_parameters()
    x = torch.randn(3, 4, 8)
    values = attention.qkv(x)[..., 16:]
    expected = attention.out(attention.weights(x)[:, 0] @ values)
    assert_close(attention(x), expected)
    with torch.no_grad():
        attention.bias.table.zero_()
    assert not torch.allclose(attention(x), expected, atol=1e-3)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    drop = DropPath(0.25)
    out = drop(torch.ones(20_000, 3, 4))
    first = out[:, :1, :1]
    kept = first != 0
    assert torch.equal(out, first.expand_as(out))
    assert first[kept].unique().item() == pytest.approx(1 / 0.75)
    assert kept.float().mean() == pytest.approx(0.75, abs=0.015)

    drop.eval()
    x = torch.randn(4, 3, 4)
    assert drop(x) is x


def test_sequence_pooling_is_a_weighted_mean():
    pool = SequencePool(8)
    x = torch.randn(2, 5, 8)
    weights = torch.exp(x @ pool.score.weight[0])
    weights = weights / weights.sum(dim=1, keepdim=True)
    expected = torch.einsum("bt,btd->bd", weights, x)
    assert_close(pool(x), expected)


def test_sincos_positions_match_the_formula():
    positions = sincos_positions(7, 32)
    assert positions.shape == (49, 32)
    assert positions.dtype == torch.float32
    numbers = range(7)
    for row, column, k in itertools.product(numbers, numbers, range(8)):
        frequency = 10_000 ** -(k / 7)
        x = column * frequency
        y = row * frequency
        expected = [
            math.sin(x),
            math.cos(x),
            math.sin(y),
            math.cos(y),
        ]
        actual = positions[7 * row + column, k::8]
        assert actual.tolist() == pytest.approx(expected, abs=1e-6)
