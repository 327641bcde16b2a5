"""Test the convolutional stem: output shapes, token order and whitening."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from vits import dataset

from src.config import ViTConfig
from src.errors import InputError
from src.models.stem import ConvStem, Whiten
from src.models.vit import grid_side


def conv_stem(layers, **options) -> ConvStem:
    """Return a stem for color images that outputs tokens of width 32."""
    return ConvStem(channels=3, width=32, layers=layers, **options)


def widths(stem) -> list[int]:
    return [stage.conv1.out_channels for stage in stem.stages]


@pytest.mark.parametrize(
    ("image_size", "layers", "side"),
    [
        (16, 1, 8),
        (28, 2, 7),
        (32, 3, 4),
    ],
)
def test_each_stage_halves_the_side_and_doubles_the_width(image_size, layers, side):
    stem = conv_stem(layers)
    images = torch.randn(2, 3, image_size, image_size)
    assert stem(images).shape == (2, side**2, 32)
    assert widths(stem) == [8, 16, 32][-layers:]


def test_after_a_first_stage_of_given_width_all_are_as_wide_as_a_token():
    stem = conv_stem(layers=3, first=4)
    assert widths(stem) == [4, 32, 32]


@pytest.mark.parametrize(
    ("image_size", "layers", "side"),
    [
        (16, 1, 7),
        (28, 2, 6),
        (32, 3, 3),
    ],
)
def test_without_padding_each_side_has_one_token_less(image_size, layers, side):
    config = ViTConfig(stem_layers=layers, whiten=True, whiten_pad=False)
    assert grid_side(config, dataset(image_size=image_size, patch_size=None, channels=3)) == side
    stem = conv_stem(layers, whiten=True, whiten_pad=False)
    assert stem(torch.randn(2, 3, image_size, image_size)).shape == (2, side**2, 32)


def test_error_if_no_token_is_left_without_padding():
    config = ViTConfig(stem_layers=3, whiten=True, whiten_pad=False)
    with pytest.raises(InputError, match="leaves no tokens for images of 8x8 pixels"):
        grid_side(config, dataset(image_size=8, patch_size=None, channels=3))


@pytest.mark.parametrize(
    ("row", "column"),
    [
        (0, 3),
        (2, 1),
    ],
)
def test_tokens_are_in_row_major_order(row, column):
    stem = conv_stem(layers=2).eval()
    images = torch.randn(1, 3, 16, 16)
    changed = images.clone()
    patches = changed.unflatten(3, (4, 4)).unflatten(2, (4, 4))
    patches[:, :, row, :, column] += 100

    difference = stem(changed) - stem(images)
    assert difference.norm(dim=2).argmax() == 4 * row + column


# Whitening ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_whitening_filters_are_orthonormal_and_fixed(channels):
    whiten = Whiten(channels)
    rows = whiten.filters.weight.flatten(1)
    assert_close(rows @ rows.T, torch.eye(4 * channels))
    assert not any(p.requires_grad for p in whiten.parameters())


def photos() -> torch.Tensor:
    """Return smooth gray images with some color and noise."""
    gray = torch.randn(64, 1, 8, 8)
    color = torch.randn(64, 3, 8, 8)
    smooth = F.interpolate(gray + color / 4, scale_factor=4, mode="bicubic")
    return smooth + torch.randn_like(smooth) / 20


def mean_correlation(x) -> torch.Tensor:
    """Return the mean absolute correlation between pairs of different channels of [B, C, ...]."""
    matrix = x.movedim(1, 0).flatten(1).corrcoef()
    channels = len(matrix)
    different = matrix.abs().sum() - channels
    return different / (channels * (channels - 1))


def test_whitening_decorrelates_neighboring_pixels_and_colors():
    images = photos()
    pixels = F.unfold(images, 2)
    whiten = Whiten(3)
    white = whiten.norm(whiten.filters(images))

    assert mean_correlation(pixels) > 0.7
    assert mean_correlation(white) < 0.05
    variance = white.var(dim=(0, 2, 3))
    assert variance.min() > 0.75
    assert variance.max() < 1.25
