"""Test the convolutional baseline."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from vits import dataset

from src.config import CNNConfig
from src.errors import InputError
from src.models.cnn import ConvNet


def cnn(image_size=12, channels=1, classes=8, patch_size=None, dropout=0.25) -> ConvNet:
    images = dataset(image_size, patch_size, classes, channels)
    config = CNNConfig(dropout=dropout)
    return ConvNet(config, images)


def test_it_is_pytorchs_mnist_example():
    network = cnn(image_size=28, classes=10)
    layers = "Conv2d ReLU Conv2d ReLU MaxPool2d Dropout Flatten Linear ReLU Dropout Linear"

    linear = [m.in_features for m in network.layers if isinstance(m, nn.Linear)]
    dropout = [m.p for m in network.layers if isinstance(m, nn.Dropout)]
    assert [type(layer).__name__ for layer in network.layers] == layers.split()
    assert linear == [9216, 128]
    assert dropout == [0.25, 0.5]
    assert sum(p.numel() for p in network.parameters()) == 1_199_882


@pytest.mark.parametrize(("image_size", "channels", "classes"), [(32, 3, 100), (7, 1, 2)])
def test_shapes_and_gradients(image_size, channels, classes):
    network = cnn(image_size, channels, classes)
    logits = network(torch.randn(4, channels, image_size, image_size))
    assert logits.shape == (4, classes)

    F.cross_entropy(logits, torch.arange(4) % classes).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_unsuitable_images_are_refused():
    with pytest.raises(InputError, match="needs images of at least 6x6 pixels, got 5x5"):
        cnn(image_size=5)
    with pytest.raises(InputError, match="patch_size 4: a CNN reads whole images; set it to null"):
        cnn(patch_size=4)
