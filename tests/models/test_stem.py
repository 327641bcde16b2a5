"""The convolutional stem: how often it halves the side, and where in the row of tokens a pixel goes."""

import pytest
import torch
import torch.nn.functional as F

from src.models.stem import ConvStem, Whiten


@pytest.mark.parametrize(("image_size", "layers", "side"), [(16, 1, 8), (28, 2, 7), (32, 3, 4)])
def test_each_layer_halves_the_side_and_doubles_the_width(image_size, layers, side):
    stem = ConvStem(channels=3, width=32, layers=layers)
    assert stem(torch.randn(2, 3, image_size, image_size)).shape == (2, side**2, 32)
    assert [stage.conv1.out_channels for stage in stem.stages] == [8, 16, 32][-layers:]


def test_after_a_first_layer_of_given_width_all_have_the_width_of_a_token():
    stem = ConvStem(channels=3, width=32, layers=3, first=4)
    assert [stage.conv1.out_channels for stage in stem.stages] == [4, 32, 32]


@pytest.mark.parametrize(("row", "column"), [(1, 13), (9, 2)])
def test_tokens_go_row_by_row(row, column):
    stem, images = ConvStem(channels=1, width=32, layers=2).eval(), torch.randn(1, 1, 16, 16)
    changed = images.clone()
    changed[..., row, column] += 100
    difference = (stem(changed) - stem(images)).norm(dim=2)
    assert difference.argmax().item() == 4 * (row // 4) + column // 4


def test_the_second_convolution_only_adds():
    stage, x = ConvStem(channels=3, width=8, layers=1).eval().stages[0], torch.randn(2, 3, 8, 8)
    whole = stage(x)
    torch.nn.init.zeros_(stage.conv2.weight)
    assert (
        (whole >= stage(x)).all() and (stage(x) > 0).any() and not torch.allclose(whole, stage(x))
    )


def correlation(x) -> torch.Tensor:
    """[B, C, H, W] -> [C, C]"""
    return x.movedim(1, 0).flatten(1).corrcoef()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_filters_of_the_whitening_are_orthonormal_and_fixed(channels):
    whiten = Whiten(channels)
    rows = whiten.filters.weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(4 * channels))
    assert not any(p.requires_grad for p in whiten.parameters())


def test_neighboring_pixels_of_like_colors_become_uncorrelated_and_of_variance_1():
    """Smooth gray images with some color and noise: what a photo is in small."""
    torch.manual_seed(0)
    gray = F.interpolate(torch.randn(64, 1, 8, 8), size=(32, 32), mode="bicubic")
    images = gray + F.interpolate(torch.randn(64, 3, 8, 8), size=(32, 32), mode="bicubic") / 4
    images = images + torch.randn_like(images) / 20
    patches = F.unfold(images, 2).unflatten(2, (31, 31))
    white = Whiten(3)
    seen = []
    white.norm.register_forward_hook(lambda module, args, output: seen.append(output))
    white(images)
    off_diagonal = ~torch.eye(12, dtype=torch.bool)
    assert correlation(patches)[off_diagonal].abs().mean() > 0.7
    assert correlation(seen[0])[off_diagonal].abs().mean() < 0.05
    assert seen[0].var(dim=(0, 2, 3)).sub(1).abs().max() < 0.25


def test_a_whitened_stem_begins_with_both_signs_of_every_filter():
    stem, images = ConvStem(channels=3, width=32, layers=2, whiten=True), torch.randn(2, 3, 16, 16)
    seen = F.pad(stem.whiten.norm(stem.whiten.filters(images)), (0, 1, 0, 1))
    up, down = stem.whiten(images).chunk(2, dim=1)
    torch.testing.assert_close(up, F.gelu(seen))
    torch.testing.assert_close(down, F.gelu(-seen))
    assert stem(images).shape == (2, 16, 32)
    assert all(stage.activation is F.gelu for stage in stem.stages)
    assert all(
        stage.activation is F.relu for stage in ConvStem(channels=3, width=32, layers=2).stages
    )
