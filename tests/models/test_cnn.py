"""The convolutional baseline."""

import pytest
import torch
import torch.nn.functional as F
from batches import overfit
from torch import nn

from src.errors import InputError
from src.models.cnn import ConvNet


def test_it_is_the_classic_mnist_example():
    network = ConvNet(image_size=28, channels=1, classes=10)
    names = [type(layer).__name__ for layer in network.layers]
    assert (
        names
        == "Conv2d ReLU Conv2d ReLU MaxPool2d Dropout Flatten Linear ReLU Dropout Linear".split()
    )
    assert [m.in_features for m in network.layers if isinstance(m, nn.Linear)] == [9216, 128]
    assert [m.p for m in network.layers if isinstance(m, nn.Dropout)] == [0.25, 0.5]
    assert sum(p.numel() for p in network.parameters()) == 1_199_882


@pytest.mark.parametrize(
    ("image_size", "channels", "classes"), [(32, 3, 100), (6, 3, 2), (7, 1, 2), (29, 1, 3)]
)
def test_shapes_and_gradients(image_size, channels, classes):
    network = ConvNet(image_size=image_size, channels=channels, classes=classes)
    logits = network(torch.randn(4, channels, image_size, image_size))
    assert logits.shape == (4, classes)
    F.cross_entropy(logits, torch.arange(4) % classes).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_a_batch_of_8_overfits():
    network = ConvNet(image_size=12, channels=1, classes=8, dropout=0.0)
    assert overfit(network, torch.randn(8, 1, 12, 12), torch.arange(8), steps=40)[-1] < 0.05


def test_dropout_acts_in_training_alone():
    network, x = ConvNet(image_size=12, channels=1, classes=8), torch.randn(8, 1, 12, 12)
    assert not torch.allclose(network(x), network(x), atol=1e-3)
    network.eval()
    torch.testing.assert_close(network(x), network(x))


@pytest.mark.parametrize("image_size", [5, 0])
def test_an_image_too_small_is_refused(image_size):
    with pytest.raises(InputError) as caught:
        ConvNet(image_size=image_size, channels=1, classes=10)
    assert (
        str(caught.value)
        == f"the CNN needs images of at least 6x6 pixels, not {image_size}x{image_size}"
    )
