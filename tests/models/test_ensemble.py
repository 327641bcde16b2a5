"""An ensemble trains each of its networks on a share of the batch, and answers with the mean of their probabilities."""

import pytest
import torch
import torch.nn.functional as F
from batches import random_images
from program import run, tiny, train
from vits import randomize

from src.errors import InputError
from src.inference.predictor import Predictor
from src.models.ensemble import Ensemble
from src.models.vit import VisionTransformer

SHAPE = {
    "image_size": 16,
    "patch_size": None,
    "channels": 1,
    "classes": 5,
    "pool": "mean",
    "stem_layers": 2,
}


@pytest.fixture
def ensemble():
    """Three hybrid networks."""
    return randomize(
        Ensemble([VisionTransformer(**SHAPE, width=16, depth=1, heads=2) for _ in range(3)])
    )


def test_out_of_training_the_probabilities_are_averaged(ensemble):
    ensemble.eval()
    x = torch.randn(7, 1, 16, 16)
    mean = sum(network(x).softmax(dim=1) for network in ensemble.networks) / 3
    torch.testing.assert_close(ensemble(x).exp(), mean)


def test_a_certain_network_makes_no_infinite_loss(ensemble):
    ensemble.eval()
    with torch.no_grad():
        for network in ensemble.networks:
            network.head.bias[0] += 1e4
    loss = F.cross_entropy(ensemble(torch.randn(4, 1, 16, 16)), torch.full((4,), 1))
    assert loss.isfinite() and loss > 1e3


def test_in_training_each_network_sees_its_share(ensemble):
    x = torch.randn(8, 1, 16, 16)
    logits = ensemble(x)
    with torch.no_grad():
        expected = [
            network(share)
            for network, share in zip(ensemble.networks, x.split([3, 3, 2]), strict=True)
        ]
    torch.testing.assert_close(logits, torch.cat(expected))
    logits[:3].sum().backward()  # the share of the first network
    graded = {
        name.split(".")[1]
        for name, p in ensemble.named_parameters()
        if p.grad is not None and p.grad.any()
    }
    assert graded == {"0"}


def test_gradients_reach_every_parameter(ensemble):
    F.cross_entropy(ensemble(torch.randn(12, 1, 16, 16)), torch.arange(12) % 5).backward()
    assert all(p.grad is not None and p.grad.any() for p in ensemble.parameters())


def test_a_batch_smaller_than_the_ensemble_is_refused(ensemble):
    with pytest.raises(InputError, match="a batch of 2 has no image for each of 3 networks"):
        ensemble(torch.randn(2, 1, 16, 16))
    assert ensemble.eval()(torch.randn(1, 1, 16, 16)).shape == (1, 5)


@pytest.fixture(scope="module")
def ensemble_run(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs"), "--model.ensemble", 2)


def test_its_checkpoint_classifies(ensemble_run):
    predictor = Predictor(ensemble_run / "checkpoints" / "best.ckpt", "cpu")
    images, alone = random_images(4, 1, 8, 8), []
    together = predictor.probabilities(images)
    for network in predictor.classifier.network.networks:
        predictor.classifier.network = network
        alone.append(predictor.probabilities(images))
    torch.testing.assert_close(together, sum(alone) / 2)
    assert len(alone) == 2 and not torch.allclose(*alone, atol=1e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--model.ensemble", 2, "--model.freeze", "encoder"],
            "init_from and freeze are for a single network",
        ),
        (
            ["--model.ensemble", 2, "--model.init_from", "RUN"],
            "init_from and freeze are for a single network",
        ),
        (["--model.init_from", "RUN"], "an ensemble of 2 networks; give a run of a single network"),
    ],
    ids=str,
)
def test_what_does_not_go_with_an_ensemble_is_one_line(ensemble_run, flags, message):
    flags = [ensemble_run if flag == "RUN" else flag for flag in flags]
    assert message in train(*tiny(ensemble_run.parents[1], *flags)).error
