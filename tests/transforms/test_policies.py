"""Compare RandAugment and TrivialAugment with torchvision: operations, strengths and signs."""

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from batches import generator, pictures
from torch.testing import assert_close
from torchvision.transforms import v2

from src.randomness import Draw
from src.transforms import color
from src.transforms.geometry import affine, resample
from src.transforms.policies import (
    LIMITS,
    OPERATIONS,
    Assignment,
    affine_entries,
    apply_colors,
    assign_operations,
)

REFERENCES = {"randaugment": v2.RandAugment(), "trivialaugment": v2.TrivialAugmentWide()}
LEVELS_AND_SIGNS = [
    (0, 1),
    (9, -1),
    (17, 1),
    (30, -1),
    (30, 1),
]
TORCHVISION_NAMES = {"saturation": "Color", "autocontrast": "AutoContrast"}


def assign(name: str, policy: str, size: int, magnitude: float, sign: int = 1) -> Assignment:
    """Assign one operation to all images.

    Args:
        name: operation, one of OPERATIONS.
        policy: a key of LIMITS.
        size: number of images.
        magnitude: magnitude of the operation, from 0 to 1.
        sign: direction of the operation, -1 or 1.
    """
    index = OPERATIONS.index(name)
    groups = torch.zeros(len(OPERATIONS), size, dtype=torch.int64)
    groups[index] = torch.arange(size)
    position = index * size + torch.arange(size)
    operation = torch.full((size,), index)

    magnitudes = torch.full((size,), magnitude)
    return Assignment(
        LIMITS[policy],
        operation,
        groups,
        position,
        magnitudes,
        sign * magnitudes,
    )


def torchvision_operation(policy, name, images, level, sign):
    """Apply an operation from torchvision's policy at a level from 0 to 30."""
    reference = REFERENCES[policy]
    name = TORCHVISION_NAMES.get(name, name.title().replace("_", ""))
    magnitudes, signed = reference._AUGMENTATION_SPACE[name]
    values = magnitudes(31, *images.shape[-2:])
    strength = 0.0 if values is None else float(values[level])
    if signed:
        strength *= sign

    bilinear = TF.InterpolationMode.BILINEAR
    fill = {torch.Tensor: None}
    return reference._apply_image_or_video_transform(images, name, strength, bilinear, fill)


@pytest.mark.parametrize("policy", REFERENCES)
@pytest.mark.parametrize("name", OPERATIONS[6:])
def test_color_operations_match_torchvision(name, policy):
    assert len(OPERATIONS) == len(REFERENCES[policy]._AUGMENTATION_SPACE)

    images = pictures(3)
    for level, sign in LEVELS_AND_SIGNS:
        assignment = assign(name, policy, len(images), level / 30, sign)
        actual = apply_colors(images, [assignment])
        expected = torchvision_operation(policy, name, images, level, sign)

        difference = (actual.int() - expected.int()).abs()
        assert difference.max() <= 1
        # If the exact result is an integer, truncation depends on the last bit of the float.
        assert (difference[:-1] > 0).float().mean() < 0.05


@pytest.mark.parametrize("policy", REFERENCES)
@pytest.mark.parametrize("name", OPERATIONS[1:6])
def test_geometric_operations_match_torchvision(name, policy):
    small = pictures(3, 2).float()
    images = torch.nn.functional.interpolate(small, (40, 36), mode="bilinear")
    draw = Draw(2, generator())

    for level, sign in LEVELS_AND_SIGNS:
        assignment = assign(name, policy, 2, level / 30, sign)
        entries = affine_entries(assignment, 40, 36)
        actual = resample(images, affine(draw, **entries))
        expected = torchvision_operation(policy, name, images, level, sign)

        assert_close(actual, expected, rtol=0, atol=0.05)  # on a scale of 0 to 255


def test_assignments_are_applied_in_order():
    images = pictures(3)
    solarize = assign("solarize", "randaugment", 6, 0.5)
    equalize = assign("equalize", "randaugment", 6, 0.5)

    actual = apply_colors(images, [solarize, equalize])

    solarized = color.solarize(images, torch.full((6,), 127.5))
    assert torch.equal(actual, color.equalize(solarized))


@pytest.mark.parametrize("size", [1, 14, 100])
def test_every_image_gets_one_operation(size):
    assignment = assign_operations("randaugment", 9, Draw(size, generator(size)))

    groups = assignment.groups
    position = assignment.position
    capacity = groups.shape[1]
    assert groups.flatten()[position].tolist() == list(range(size))
    assert torch.equal(assignment.operation, position // capacity)
    assert_close(assignment.magnitude, torch.full((size,), 0.3))


def test_every_operation_is_equally_likely_in_small_batches():
    """Use batches of 5 images, each of which gets a different one of the 14 operations."""
    draw = Draw(5, generator())
    operations = [assign_operations("randaugment", 9, draw).operation for _ in range(3000)]

    frequency = torch.cat(operations).bincount(minlength=14) / 15_000
    assert (frequency - 1 / 14).abs().max() < 0.01  # about four standard deviations


def test_trivialaugment_draws_all_magnitudes_and_signs():
    assignment = assign_operations("trivialaugment", 9, Draw(5000, generator()))

    levels = (assignment.strength * 30).round()
    assert levels.unique().tolist() == list(range(-30, 31))
    assert torch.equal(assignment.strength.abs(), assignment.magnitude)


def test_trivialaugment_translates_by_at_most_the_image_size():
    """torchvision has no such limit and translates even small images by up to 32 pixels."""
    assignment = assign("translate_x", "trivialaugment", 1, 1.0)
    assert affine_entries(assignment, 8, 8)["x0"].item() == -8
