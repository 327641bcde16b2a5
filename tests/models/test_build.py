"""An ensemble trains each of its networks on a share of the batch, and answers with the mean of their probabilities."""

import pytest
import short
import torch
import torch.nn.functional as F
from short import train
from src.models.cnn import ConvNet
from src.models.build import build
from src.models.ensemble import Ensemble
from src.inference.predictor import Predictor
from src.models.vit import VisionTransformer

from src.errors import InputError

HYBRID = dict(
    kind="vit", image_size=16, patch_size=None, channels=1, classes=5, width=16, depth=1, heads=2, pool="mean",
    stem_layers=2,
)  # fmt: skip


@pytest.fixture
def ensemble():
    """Three hybrid networks with heads that are no longer zero."""
    made = build(HYBRID, 3)
    for network in made.networks:
        torch.nn.init.normal_(network.head.weight)
    return made


def test_build_makes_a_single_network_or_several():
    assert isinstance(build(HYBRID), VisionTransformer)
    assert isinstance(build(dict(kind="cnn", image_size=12, channels=1, classes=3), 1), ConvNet)
    several = build(HYBRID, 2)
    assert isinstance(several, Ensemble) and len(several.networks) == 2
    first, second = (network.embed.stages[0].conv1.weight for network in several.networks)
    assert not torch.equal(first, second), "they start alike"


def test_out_of_training_the_probabilities_are_averaged(ensemble):
    ensemble.eval()
    x = torch.randn(7, 1, 16, 16)
    mean = sum(network(x).softmax(dim=1) for network in ensemble.networks) / 3
    assert torch.allclose(ensemble(x).softmax(dim=1), mean, atol=1e-6)
    assert torch.allclose(ensemble(x).exp(), mean, atol=1e-6), "they are the logarithms themselves"


def test_a_certain_network_makes_no_infinite_loss(ensemble):
    ensemble.eval()
    with torch.no_grad():
        for network in ensemble.networks:
            network.head.bias[0] += 1e4
    loss = F.cross_entropy(ensemble(torch.randn(4, 1, 16, 16)), torch.full((4,), 1))
    assert loss.isfinite() and loss > 1e3


def test_in_training_each_network_sees_its_share(ensemble):
    ensemble.train()
    x = torch.randn(8, 1, 16, 16)
    logits = ensemble(x)
    assert logits.shape == (8, 5)
    with torch.no_grad():
        expected = [network(share) for network, share in zip(ensemble.networks, x.split([3, 3, 2]), strict=True)]
    assert torch.equal(logits, torch.cat(expected))
    logits[:3].sum().backward()  # the share of the first network
    graded = {name.split(".")[1] for name, p in ensemble.named_parameters() if p.grad is not None and p.grad.any()}
    assert graded == {"0"}


def test_gradients_reach_every_parameter(ensemble):
    ensemble.train()
    F.cross_entropy(ensemble(torch.randn(12, 1, 16, 16)), torch.arange(12) % 5).backward()
    assert all(p.grad is not None and p.grad.any() for p in ensemble.parameters())


def test_a_batch_smaller_than_the_ensemble_is_refused(ensemble):
    with pytest.raises(InputError, match="a batch of 2 has no image for each of 3 networks"):
        ensemble.train()(torch.randn(2, 1, 16, 16))
    assert ensemble.eval()(torch.randn(1, 1, 16, 16)).shape == (1, 5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return short.run(tmp_path_factory.mktemp("runs"), "--model.ensemble", 2)


def test_its_checkpoint_classifies(run):
    predictor = Predictor(run / "checkpoints" / "best.ckpt", "cpu")
    assert len(predictor.network.networks) == 2
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    together, (first, second) = predictor.probabilities(images), predictor.network.networks
    alone = []
    for network in (first, second):
        predictor.network = network
        alone.append(predictor.probabilities(images))
    assert torch.allclose(together, sum(alone) / 2, atol=1e-6) and not torch.allclose(*alone, atol=1e-3)


def test_what_does_not_go_with_an_ensemble_is_one_line(run):
    single = [*short.SETTINGS, *short.VIT, "--runs", run.parents[1], "--trainer.max_epochs", 1]
    for flags, message in (
        (["--model.ensemble", 2, "--model.freeze", "encoder"], "init_from and freeze are for a single network"),
        (["--model.ensemble", 2, "--model.init_from", run], "init_from and freeze are for a single network"),
        (["--model.init_from", run], "an ensemble of 2 networks; give a run of a single network"),
    ):
        ended = train(*single, *flags)
        assert ended.code == 2 and ended.err.count("\n") == 1 and message in ended.err, ended
