"""An ensemble shares batches in training and averages probabilities in evaluation."""

import pytest
import torch
import torch.nn.functional as F
from batches import random_images
from program import run, tiny, train
from vits import randomize, vit

from src.errors import InputError
from src.inference.predictor import Predictor
from src.models.ensemble import Ensemble


def hybrid():
    """Return a network with batch norm, which sees only its own share."""
    small = {"width": 16, "depth": 1, "heads": 2}
    return vit(16, None, 5, 1, pool="mean", stem_layers=2, **small)


@pytest.fixture
def ensemble():
    return randomize(Ensemble([hybrid() for _ in range(3)]))


def test_evaluation_averages_probabilities(ensemble):
    ensemble.eval()
    x = torch.randn(7, 1, 16, 16)
    mean = sum(network(x).softmax(dim=1) for network in ensemble.networks) / 3
    torch.testing.assert_close(ensemble(x).exp(), mean)


def test_loss_stays_finite_when_all_networks_are_certain(ensemble):
    ensemble.eval()
    with torch.no_grad():
        for network in ensemble.networks:
            network.head.bias[0] += 1e4
    logits = ensemble(torch.randn(4, 1, 16, 16))
    loss = F.cross_entropy(logits, torch.full((4,), 1))
    assert loss.isfinite()
    assert loss > 1e3


def test_training_gives_each_network_its_share(ensemble):
    x = torch.randn(8, 1, 16, 16)
    logits = ensemble(x)
    shares = zip(ensemble.networks, x.split([3, 3, 2]), strict=True)
    with torch.no_grad():
        expected = torch.cat([network(share) for network, share in shares])
    torch.testing.assert_close(logits, expected)

    logits[:3].sum().backward()  # the share of the first network
    for name, parameter in ensemble.named_parameters():
        used = parameter.grad is not None and bool(parameter.grad.any())
        expected_use = name.startswith("networks.0.")
        assert used == expected_use, name


def test_batch_smaller_than_the_ensemble(ensemble):
    with pytest.raises(InputError, match="a batch of 2 images cannot be shared by 3 networks"):
        ensemble(torch.randn(2, 1, 16, 16))
    ensemble.eval()
    assert ensemble(torch.randn(1, 1, 16, 16)).shape == (1, 5)


@pytest.fixture(scope="module")
def ensemble_run(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return run(runs, "--model.ensemble", 2)


def test_checkpoint_of_an_ensemble_classifies(ensemble_run):
    predictor = Predictor(ensemble_run / "checkpoints" / "best.ckpt", "cpu")
    images = random_images(4, 1, 8, 8)
    together = predictor.probabilities(images)
    alone = []
    for network in predictor.classifier.network.networks:
        predictor.classifier.network = network
        alone.append(predictor.probabilities(images))
    first, second = alone
    torch.testing.assert_close(together, (first + second) / 2)
    assert not torch.allclose(first, second, atol=1e-3)


SINGLE = "model.init_from and model.freeze are for a single network"
ENSEMBLE = "--model.ensemble 2"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (f"{ENSEMBLE} --model.freeze encoder", SINGLE),
        (f"{ENSEMBLE} --model.init_from RUN", SINGLE),
        ("--model.init_from RUN", "an ensemble of 2 networks"),
    ],
)
def test_fine_tuning_is_for_single_networks(ensemble_run, flags, message):
    options = flags.replace("RUN", str(ensemble_run)).split()
    ended = train(*tiny(ensemble_run.parents[1], *options))
    assert message in ended.error
