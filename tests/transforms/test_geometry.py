"""Affine maps and boxes; `test_augment.py` and `test_policies.py` compare what they are used for with torchvision."""

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from batches import generator, random_images
from scipy import stats

from src.randomness import Draw
from src.transforms.geometry import affine, box_mask, compose, crop_maps, resample


def test_the_identity_changes_nothing_and_a_whole_pixel_moves_all():
    images = random_images(2, 3, 6, 9)
    draw = Draw(2, generator())
    torch.testing.assert_close(resample(images, affine(draw)), images.float(), rtol=0, atol=0.05)
    moved = resample(images, affine(draw, x0=torch.tensor([0.0, 2.0]), y0=-1.0))
    torch.testing.assert_close(moved[0, :, 1:], images[0, :, :-1].float(), rtol=0, atol=0.05)
    torch.testing.assert_close(
        moved[1, :, 1:, :-2], images[1, :, :-1, 2:].float(), rtol=0, atol=0.05
    )
    assert moved[:, :, 0].abs().max() < 0.05 and moved[1, :, :, -2:].abs().max() < 0.05, (
        "black comes in"
    )


def test_compose_is_the_matrix_product_of_each_sample():
    first, then = torch.randn(3, 3, 5), torch.randn(3, 3, 5)
    expected = torch.stack([first[..., i] @ then[..., i] for i in range(5)], dim=2)
    torch.testing.assert_close(compose(first, then), expected, rtol=0, atol=1e-5)


def test_a_crop_equals_torchvision_inside_of_it():
    images = random_images(1, 3, 32, 32)
    draws = iter(
        [0.25, 0.0, 0.25, -0.125]
    )  # area, log ratio, and the place along x and y from -0.5 to 0.5

    class Given(Draw):
        def uniform(self, low, high):
            return torch.tensor([next(draws)])

    ours = resample(images, crop_maps(0.08, Given(1, generator()), 32, 32))
    theirs = TF.resized_crop(images.float(), 6, 12, 16, 16, [32, 32], antialias=False)
    rim = slice(1, -1)  # the rim also sees its neighbors
    torch.testing.assert_close(ours[..., rim, rim], theirs[..., rim, rim], rtol=0, atol=0.05)


@pytest.mark.parametrize("height, width", [(32, 32), (20, 40), (48, 16)])
def test_crops_have_uniform_area_permitted_ratio_and_lie_inside(height, width):
    maps = crop_maps(0.1, Draw(20_000, generator()), height, width)
    crop_width, crop_height = maps[0, 0] * width, maps[1, 1] * height
    assert ((maps[0, 2].abs() + crop_width / 2) <= width / 2 + 1e-4).all()
    assert ((maps[1, 2].abs() + crop_height / 2) <= height / 2 + 1e-4).all()
    if height == width:
        area = (crop_width * crop_height / (height * width)).double().numpy()
        assert stats.kstest(area, stats.uniform(0.1, 0.9).cdf).pvalue > 1e-3
        ratio = crop_width / crop_height
        assert ratio.min() > 0.749 and ratio.max() < 1.334 and ratio.log().mean().abs() < 0.01


def test_boxes_are_cut_off_at_the_border():
    top, left, height, width = torch.tensor([[1, -2, 0], [2, 3, 0], [2, 3, 0], [1, 9, 5]])
    masks = box_mask(top, left, height, width, 4, 5)[:, 0]
    assert masks[0].nonzero().tolist() == [[1, 2], [2, 2]]
    assert masks[1].nonzero().tolist() == [[0, 3], [0, 4]]
    assert not masks[2].any()
