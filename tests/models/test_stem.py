"""The convolutional stem: shapes, the order of tokens, and whitening."""

import pytest
import torch
import torch.nn.functional as F

from src.models.stem import ConvStem, Whiten


def widths(stem):
    return [stage.conv1.out_channels for stage in stem.stages]


@pytest.mark.parametrize(("image_size", "layers", "side"), [(16, 1, 8), (28, 2, 7), (32, 3, 4)])
def test_each_stage_halves_the_side_and_doubles_the_width(image_size, layers, side):
    stem = ConvStem(channels=3, width=32, layers=layers)
    tokens = stem(torch.randn(2, 3, image_size, image_size))
    assert tokens.shape == (2, side**2, 32)
    assert widths(stem) == [8, 16, 32][-layers:]


def test_after_a_first_stage_of_given_width_all_are_as_wide_as_a_token():
    stem = ConvStem(channels=3, width=32, layers=3, first=4)
    assert widths(stem) == [4, 32, 32]


@pytest.mark.parametrize(("row", "column"), [(1, 13), (9, 2)])
def test_tokens_are_in_row_major_order(row, column):
    stem = ConvStem(channels=1, width=32, layers=2).eval()
    images = torch.randn(1, 1, 16, 16)
    changed = images.clone()
    changed[..., row, column] += 100
    difference = (stem(changed) - stem(images)).norm(dim=2)
    assert difference.argmax().item() == 4 * (row // 4) + column // 4


def test_second_convolution_is_residual():
    stage = ConvStem(channels=3, width=8, layers=1).eval().stages[0]
    x = torch.randn(2, 3, 8, 8)
    whole = stage(x)
    torch.nn.init.zeros_(stage.conv2.weight)
    first = stage(x)
    assert first.any()
    assert (whole >= first).all()
    assert (whole > first).any()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_whitening_filters_are_orthonormal_and_fixed(channels):
    whiten = Whiten(channels)
    rows = whiten.filters.weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(4 * channels))
    assert not any(p.requires_grad for p in whiten.parameters())


def correlation(x) -> torch.Tensor:
    """Return the correlations between different channels of [B, C, H, W], one dimension."""
    matrix = x.movedim(1, 0).flatten(1).corrcoef()
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


def photos() -> torch.Tensor:
    """Return smooth gray images with some color and noise."""
    gray = torch.randn(64, 1, 8, 8)
    color = torch.randn(64, 3, 8, 8)
    smooth = F.interpolate(gray + color / 4, size=(32, 32), mode="bicubic")
    return smooth + torch.randn_like(smooth) / 20


def test_whitening_decorrelates_neighboring_pixels_and_colors():
    images = photos()
    pixels = F.unfold(images, 2).unflatten(2, (31, 31))
    whiten = Whiten(3)
    white = whiten.norm(whiten.filters(images))
    assert correlation(pixels).abs().mean() > 0.7
    assert correlation(white).abs().mean() < 0.05
    variance = white.var(dim=(0, 2, 3))
    torch.testing.assert_close(variance, torch.ones(12), atol=0.25, rtol=0)


def test_whitened_stem_starts_with_both_signs_of_every_filter():
    stem = ConvStem(channels=3, width=32, layers=2, whiten=True)
    images = torch.randn(2, 3, 16, 16)
    filtered = stem.whiten.norm(stem.whiten.filters(images))
    padded = F.pad(filtered, (0, 1, 0, 1))
    positive, negative = stem.whiten(images).chunk(2, dim=1)
    torch.testing.assert_close(positive, F.gelu(padded))
    torch.testing.assert_close(negative, F.gelu(-padded))
    assert stem(images).shape == (2, 16, 32)


@pytest.mark.parametrize(("whiten", "activation"), [(True, F.gelu), (False, F.relu)])
def test_activation_of_the_stages(whiten, activation):
    stem = ConvStem(channels=3, width=32, layers=2, whiten=whiten)
    assert all(stage.activation is activation for stage in stem.stages)
