"""RandAugment and TrivialAugment against torchvision's: which operation, how strong, and which way."""

import itertools

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from batches import generator, pictures
from torchvision.transforms import v2

from src.randomness import Draw
from src.transforms import color
from src.transforms.geometry import affine, resample
from src.transforms.policies import (
    LIMITS,
    OPERATIONS,
    Deal,
    Limits,
    apply_colors,
    deal_out,
    geometry,
)


def only(name: str, size: int, magnitude: float, sign: int, limits: Limits) -> Deal:
    """A deal that does one operation to all images."""
    index = OPERATIONS.index(name)
    slots = torch.zeros(len(OPERATIONS), size, dtype=torch.int64)
    slots[index] = torch.arange(size)
    place = index * size + torch.arange(size)
    strength = torch.ones(size)
    return Deal(
        limits, torch.full((size,), index), slots, place, strength * magnitude, strength * sign
    )


def theirs(reference, name: str, images: torch.Tensor, level: int, sign: int) -> torch.Tensor:
    """The same by an operation of torchvision's policy."""
    name = {"saturation": "Color", "autocontrast": "AutoContrast"}.get(
        name, name.title().replace("_", "")
    )
    magnitudes, signed = reference._AUGMENTATION_SPACE[name]
    values = magnitudes(31, *images.shape[-2:])
    strength = 0.0 if values is None else float(values[level]) * (sign if signed else 1)
    bilinear = TF.InterpolationMode.BILINEAR
    return reference._apply_image_or_video_transform(
        images, name, strength, bilinear, {torch.Tensor: None}
    )


POLICIES = [("randaugment", v2.RandAugment()), ("trivialaugment", v2.TrivialAugmentWide())]


@pytest.mark.parametrize("policy, reference", POLICIES)
@pytest.mark.parametrize("name", OPERATIONS[6:])
def test_color_operations_of_policies_equal_torchvision(name, policy, reference):
    assert len(OPERATIONS) == len(reference._AUGMENTATION_SPACE)
    images = pictures(3)
    for level, sign in itertools.product((0, 4, 9, 17, 30), (-1, 1)):
        ours = apply_colors(images, [only(name, len(images), level / 30, sign, LIMITS[policy])])
        difference = (ours.int() - theirs(reference, name, images, level, sign).int()).abs()
        assert difference.max() <= 1
        # Where the result is a whole number, the last bit of a float decides whether one is cut off.
        assert (difference[:-1] > 0).float().mean() < 0.05


@pytest.mark.parametrize("policy, reference", POLICIES)
@pytest.mark.parametrize("name", OPERATIONS[1:6])
def test_geometric_operations_of_policies_equal_torchvision(name, policy, reference):
    images = torch.nn.functional.interpolate(pictures(3, 2).float(), (40, 36), mode="bilinear")
    for level, sign in ((0, 1), (4, -1), (9, 1), (30, -1), (30, 1)):
        deal = only(name, 2, level / 30, sign, LIMITS[policy])
        ours = resample(images, affine(Draw(2, generator()), **geometry(deal, 40, 36)))
        expected = theirs(reference, name, images, level, sign)
        torch.testing.assert_close(ours, expected, rtol=0, atol=0.05)  # of 255 gray levels


def test_two_deals_follow_one_another():
    images = pictures(3)
    first = only("solarize", 6, 0.5, 1, LIMITS["randaugment"])
    then = only("equalize", 6, 0.5, 1, LIMITS["randaugment"])
    expected = color.equalize(color.solarize(images, torch.full((6,), 127.5)))
    assert torch.equal(apply_colors(images, [first, then]), expected)


@pytest.mark.parametrize("size", [1, 3, 14, 100])
def test_every_image_is_dealt_one_operation(size):
    deal = deal_out("randaugment", 9, Draw(size, generator(size)))
    assert deal.slots.flatten()[deal.place].tolist() == list(range(size))
    assert deal.operation.tolist() == [
        place // deal.slots.shape[1] for place in deal.place.tolist()
    ]
    assert deal.operation.bincount().max() <= deal.slots.shape[1]
    assert deal.magnitude.unique().tolist() == pytest.approx([0.3])


def test_every_operation_is_equally_likely_for_small_batches_too():
    source = generator()
    drawn = torch.cat([deal_out("randaugment", 9, Draw(5, source)).operation for _ in range(3000)])
    counts = drawn.bincount(minlength=len(OPERATIONS)) / len(drawn)
    assert counts.sub(1 / len(OPERATIONS)).abs().max() < 0.01  # about four standard deviations


def test_trivialaugment_draws_all_strengths_and_signs():
    deal = deal_out("trivialaugment", 9, Draw(5000, generator()))
    assert (deal.magnitude * 30).round().unique().tolist() == list(range(31))
    assert deal.sign.unique().tolist() == [-1, 1]
    assert abs(deal.sign.mean()) < 0.06


def test_identity_and_geometric_operations_leave_colors_alone():
    images = pictures(3)
    for name in OPERATIONS[:6]:
        deal = only(name, len(images), 1.0, 1, LIMITS["trivialaugment"])
        assert torch.equal(apply_colors(images, [deal]), images)


def test_trivialaugment_moves_small_images_by_their_size_at_most():
    deal = only("translate_x", 1, 1.0, 1, LIMITS["trivialaugment"])
    assert geometry(deal, 8, 8)["x0"].item() == -8
    assert geometry(deal, 64, 64)["x0"].item() == -32
