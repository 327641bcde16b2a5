"""Test that MixUp and CutMix targets match the pixels, and test their random distributions."""

import pytest
import torch
from batches import generator
from scipy import stats
from torch.testing import assert_close

from src.randomness import Draw
from src.transforms.augment import Augmentation
from src.transforms.mixing import mix, symmetric_beta

SETTINGS = [
    {"mixup": 0.4},
    {"cutmix": 1.0},
    {"mixup": 0.4, "cutmix": 1.0},
]


def class_channels(count: int, size: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images of four classes whose pixels are 1 in the class's channel and 0 elsewhere.

    After mixing, the mean of each channel is the proportion of its class.
    """
    labels = torch.arange(count) % 4
    images = torch.zeros(count, 4, size, size)
    images[torch.arange(count), labels] = 1
    return images, labels


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_targets_match_the_mixed_pixels(settings):
    images, labels = class_channels(200)
    global_state = torch.get_rng_state()

    mixed, targets = mix(images, labels, 4, Augmentation(**settings), generator())

    assert_close(mixed.mean((2, 3)), targets)
    assert len(targets.amax(1).unique()) > 20, "each sample has its own proportion"
    assert torch.equal(torch.get_rng_state(), global_state)


def test_mixup_and_cutmix_together_get_half_of_the_samples_each():
    images, labels = class_channels(2000)
    both = Augmentation(mixup=1.0, cutmix=1.0)

    mixed, targets = mix(images, labels, 4, both, generator())

    blended = ((mixed > 0.001) & (mixed < 0.999)).flatten(1).any(1)
    visible = targets.amax(1) < 0.999  # excludes same-class partners and empty boxes
    assert 0.45 < blended[visible].float().mean() < 0.6


def test_cutmix_pastes_one_box():
    """Find pasted pixels, which are 0 in the channel of the image's own class."""
    images, labels = class_channels(50, size=12)

    mixed, _ = mix(images, labels, 4, Augmentation(cutmix=1.0), generator())

    pasted = mixed[torch.arange(50), labels] == 0
    rows = pasted.any(2)
    columns = pasted.any(1)
    assert rows.any(1).float().mean() > 0.5
    assert torch.equal(pasted.sum((1, 2)), rows.sum(1) * columns.sum(1))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_symmetric_beta_has_its_distribution(alpha):
    samples = symmetric_beta(alpha, Draw(20_000, generator())).double().numpy()
    assert samples.min() >= 0
    assert samples.max() <= 1

    # For alpha < 1, much of the distribution is so close to 1 that float32 cannot resolve it.
    inner = samples[(samples > 1e-4) & (samples < 1 - 1e-4)]
    beta = stats.beta(alpha, alpha)
    low, high = beta.cdf([1e-4, 1 - 1e-4])
    assert len(inner) / len(samples) == pytest.approx(high - low, abs=0.015)

    def truncated_cdf(x):
        return (beta.cdf(x) - low) / (high - low)

    assert stats.kstest(inner, truncated_cdf).pvalue > 1e-3
