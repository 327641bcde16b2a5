"""The convolutional stem: how often it halves the side, and where in the row of tokens a pixel goes."""

import pytest
import torch

from src.models.stem import ConvStem


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
    assert (whole >= stage(x)).all() and (stage(x) > 0).any() and not torch.allclose(whole, stage(x))
