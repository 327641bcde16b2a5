"""MixUp and CutMix: targets are the shares of the pixels, and random numbers have their distributions."""

import pytest
import torch
from batches import generator
from scipy import stats

from src.randomness import Draw
from src.transforms.augment import Augmentation
from src.transforms.mixing import mix, symmetric_beta


def one_pixel_classes(count: int, size: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Images with the value 1 in the channel of their class, so that the means of channels are the mixed shares."""
    labels = torch.arange(count) % 4
    images = torch.zeros(count, 4, size, size)
    images[torch.arange(count), labels] = 1
    return images, labels


@pytest.mark.parametrize(
    "settings", [dict(mixup=0.4), dict(cutmix=1.0), dict(mixup=0.4, cutmix=1.0)], ids=str
)
def test_targets_are_the_shares_of_the_pixels(settings):
    images, labels = one_pixel_classes(200)
    global_state = torch.get_rng_state()
    mixed, targets = mix(images, labels, 4, Augmentation(**settings), generator())
    torch.testing.assert_close(targets.sum(1), torch.ones(200))
    torch.testing.assert_close(mixed.mean((2, 3)), targets)
    assert targets.dtype == torch.float32
    assert targets.max(1).values.unique().numel() > 20  # each sample has its own lambda
    assert torch.equal(torch.get_rng_state(), global_state)
    again = mix(images, labels, 4, Augmentation(**settings), generator())
    assert torch.equal(again[0], mixed) and torch.equal(again[1], targets)


def test_with_both_on_half_of_the_samples_are_cut():
    images, labels = one_pixel_classes(2000)
    mixed, targets = mix(images, labels, 4, Augmentation(mixup=1.0, cutmix=1.0), generator())
    blended = ((mixed > 0.001) & (mixed < 0.999)).flatten(1).any(1)
    told_apart = targets.max(1).values < 0.999  # partners of the same class leave no trace
    assert (
        0.45 < blended[told_apart].float().mean() < 0.6
    )  # CutMix boxes of no area leave none either


def test_cutmix_pastes_one_box():
    images, labels = one_pixel_classes(50, size=12)
    mixed, _ = mix(images, labels, 4, Augmentation(cutmix=1.0), generator())
    pasted = mixed[torch.arange(50), labels] == 0
    assert pasted.any(2).any(1).float().mean() > 0.5
    for box in pasted:
        assert box.sum() == box.any(1).sum() * box.any(0).sum()


def test_mixing_off_gives_one_hot_targets():
    images, labels = one_pixel_classes(8)
    mixed, targets = mix(images, labels, 6, Augmentation(), generator())
    assert torch.equal(mixed, images)
    assert torch.equal(targets, torch.nn.functional.one_hot(labels, 6).float())


def test_a_single_image_is_its_own_partner():
    images, labels = torch.rand(1, 3, 8, 8), torch.tensor([1])
    mixed, targets = mix(images, labels, 2, Augmentation(mixup=0.2, cutmix=1.0), generator())
    torch.testing.assert_close(mixed, images)
    assert targets.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8, 1.0, 3.0, 100.0])
def test_symmetric_beta_has_its_distribution(alpha):
    drawn = symmetric_beta(alpha, Draw(20_000, generator())).double().numpy()
    assert (drawn >= 0).all() and (drawn <= 1).all()
    # Below 1e-4 float32 near 1 has few values left for what alphas under 1 put there.
    inner = drawn[(drawn > 1e-4) & (drawn < 1 - 1e-4)]
    beta = stats.beta(alpha, alpha)
    low, high = beta.cdf(1e-4), beta.cdf(1 - 1e-4)
    assert len(inner) / len(drawn) == pytest.approx(high - low, abs=0.015)
    assert stats.kstest(inner, lambda x: (beta.cdf(x) - low) / (high - low)).pvalue > 1e-3
