"""Test that ensembles split batches in training and average probabilities during evaluation."""

import pytest
import torch
from batches import random_images
from program import run
from torch.testing import assert_close
from vits import randomize, vit

from src.errors import InputError
from src.inference.predictor import Predictor
from src.models.ensemble import Ensemble


def hybrid():
    """Return a network with batch norm, so that its output depends on all images in its batch."""
    small = {"width": 16, "depth": 1, "heads": 2}
    return vit(
        image_size=16,
        patch_size=None,
        classes=5,
        channels=1,
        pool="mean",
        stem_layers=2,
        **small,
    )


@pytest.fixture
def ensemble():
    return randomize(Ensemble([hybrid() for _ in range(3)]))


def test_evaluation_averages_probabilities(ensemble):
    ensemble.eval()
    x = torch.randn(7, 1, 16, 16)
    first, second, third = (network(x).softmax(dim=1) for network in ensemble.networks)
    mean = (first + second + third) / 3
    assert_close(ensemble(x).exp(), mean)


def test_training_gives_each_network_its_share(ensemble):
    x = torch.randn(8, 1, 16, 16)
    logits = ensemble(x)
    shares = zip(ensemble.networks, x.split([3, 3, 2]), strict=True)
    with torch.no_grad():
        expected = torch.cat([network(share) for network, share in shares])
    assert_close(logits, expected)

    logits[:3].sum().backward()  # the first network's part of the batch
    for number, network in enumerate(ensemble.networks):
        for name, parameter in network.named_parameters():
            assert parameter.grad.any() == (number == 0), name


def test_batch_smaller_than_the_ensemble(ensemble):
    with pytest.raises(InputError, match="a batch of 2 images cannot be split among 3 networks"):
        ensemble(torch.randn(2, 1, 16, 16))
    ensemble.eval()
    logits = ensemble(torch.randn(1, 1, 16, 16))
    assert logits.shape == (1, 5)


@pytest.fixture(scope="module")
def ensemble_run(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return run(runs, "--model.ensemble", 2)


def test_checkpoint_of_an_ensemble_classifies(ensemble_run):
    predictor = Predictor(ensemble_run / "checkpoints" / "best.ckpt", "cpu")
    predictor.classifier.temperature = 1.0
    images = random_images(4, 1, 8, 8)
    together = predictor.probabilities(images)

    alone = []
    for network in predictor.classifier.network.networks:
        predictor.classifier.network = network
        alone.append(predictor.probabilities(images))

    first, second = alone
    assert_close(together, (first + second) / 2)
    assert not torch.allclose(first, second, atol=1e-3)
