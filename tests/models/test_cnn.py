"""The convolutional baseline."""

import pytest
import torch
import torch.nn.functional as F
from src.models.cnn import ConvNet
from torch import nn

from src.errors import InputError


def first_linear(network):
    return next(module for module in network.modules() if isinstance(module, nn.Linear))


def test_the_first_linear_layer_sees_9216_features_of_mnist():
    network = ConvNet(image_size=28, channels=1, classes=10)
    assert first_linear(network).in_features == 9216
    assert sum(p.numel() for p in network.parameters()) == 1_199_882  # the classic MNIST example


@pytest.mark.parametrize(
    ("image_size", "channels", "classes"), [(28, 1, 10), (32, 3, 100), (6, 3, 2), (7, 1, 2), (29, 1, 3)]
)
def test_shapes_and_gradients(image_size, channels, classes):
    network = ConvNet(image_size=image_size, channels=channels, classes=classes)
    logits = network(torch.randn(4, channels, image_size, image_size))
    assert logits.shape == (4, classes)
    F.cross_entropy(logits, torch.arange(4) % classes).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_layers_in_order():
    names = [type(layer).__name__ for layer in ConvNet(image_size=28, channels=1, classes=10).layers]
    assert names == "Conv2d ReLU Conv2d ReLU MaxPool2d Dropout Flatten Linear ReLU Dropout Linear".split()


def test_a_batch_of_8_overfits():
    network = ConvNet(image_size=12, channels=1, classes=8, dropout=0.0)
    x, y = torch.randn(8, 1, 12, 12), torch.arange(8)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(40):
        loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02


def test_dropout_acts_in_training_alone():
    network, x = ConvNet(image_size=12, channels=1, classes=8), torch.randn(8, 1, 12, 12)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.25, 0.5]


@pytest.mark.parametrize("image_size", [5, 1, 0])
def test_an_image_too_small_is_refused(image_size):
    with pytest.raises(InputError) as caught:
        ConvNet(image_size=image_size, channels=1, classes=10)
    assert str(caught.value) == f"the CNN needs images of at least 6x6 pixels, not {image_size}x{image_size}"
