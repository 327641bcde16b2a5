"""Compare the fitted temperature with an optimizer, and test that checkpoints have their own."""

import pytest
import torch
import torch.nn.functional as F
from library import digits, small, trainer

from src.data.modules import DigitsDataModule
from src.inference.predictor import Predictor
from src.training.calibration import MIN_IMAGES, Temperature


def fitted(logits, labels, batch=64):
    metric = Temperature()
    for part, targets in zip(logits.split(batch), labels.split(batch), strict=True):
        metric.update(part, targets)
    return metric.compute()


def separable(count):
    """Return logits that are largest at the label, and the labels."""
    labels = torch.arange(count) % 10
    return F.one_hot(labels, 10) * 12 + torch.randn(count, 10), labels


@pytest.mark.parametrize("scale", [0.4, 1.0, 1.7, 5.0])
@pytest.mark.parametrize("classes", [2, 30])
def test_it_minimizes_the_negative_log_likelihood(scale, classes):
    logits = 3 * torch.randn(4000, classes)
    labels = torch.distributions.Categorical(logits=logits).sample()
    inverse = torch.ones((), requires_grad=True)
    optimizer = torch.optim.LBFGS([inverse], max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(scale * logits * inverse, labels)
        value.backward()
        return value

    optimizer.step(loss)
    expected = 1 / inverse.item()
    assert expected == pytest.approx(scale, rel=0.1)
    assert fitted(scale * logits, labels) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("count", [MIN_IMAGES, 5000])
def test_correct_predictions_do_not_become_certain(count):
    logits, labels = separable(count)
    assert logits.argmax(1).equal(labels)
    assert 0.5 < fitted(logits, labels) <= 1


def test_few_or_equal_logits_change_nothing():
    logits, labels = separable(MIN_IMAGES - 1)
    assert fitted(5 * logits, labels) == 1
    assert fitted(torch.zeros(500, 10), torch.arange(500) % 10) == pytest.approx(1)


@pytest.mark.parametrize("name", ["best", "last"])
def test_checkpoints_have_the_temperature_of_their_weights(digits_run, name):
    predictor = Predictor(digits_run / "checkpoints" / f"{name}.ckpt", "cpu")
    data = DigitsDataModule(patch_size=None, seed=0)
    data.setup("fit")
    images, labels = data.sets["val"].__getitems__(torch.arange(len(data.sets["val"])))
    temperature = predictor.checkpoint.temperature
    with torch.no_grad():
        logits = predictor.classifier.logits(images) * temperature
    assert fitted(logits, labels) == pytest.approx(temperature, rel=1e-4)
    assert abs(temperature - 1) > 0.05
    probabilities = predictor.probabilities(images)
    torch.testing.assert_close(probabilities, (logits / temperature).softmax(1))


def test_test_images_do_not_change_the_temperature():
    model = small()
    trainer(1).fit(model, digits(), digits("test"))
    temperature = model.temperature
    assert temperature != 1
    trainer().test(model, digits("test", 64), verbose=False)
    assert model.temperature == temperature
