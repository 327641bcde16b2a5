"""One module from uint8 images to probabilities: the steps of training and validation, joined."""

import pytest
import torch
from batches import random_images
from vits import ours, randomize

from src.inference.pipeline import ImageClassifier
from src.models.cnn import ConvNet
from src.models.ensemble import Ensemble
from src.transforms.patchify import normalize, patchify

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]


@pytest.mark.parametrize(
    "make", [ours, lambda: Ensemble([ours(), ours()]).eval()], ids=["one network", "an ensemble"]
)
def test_it_is_normalization_patches_network_and_softmax(make):
    network, images = make(), random_images(4, 3, 24, 24)
    classifier = ImageClassifier(network, MEAN, STD).eval()
    logits = network(patchify(normalize(images, MEAN, STD), 8))
    assert logits.std() > 0.1
    torch.testing.assert_close(classifier.logits(images), logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(classifier(images), logits.softmax(1), atol=1e-5, rtol=0)


def test_a_network_without_patches_reads_whole_images():
    network, images = (
        randomize(ConvNet(image_size=8, channels=1, classes=3)).eval(),
        random_images(4, 1, 8, 8),
    )
    expected = network((images / 255 - 0.3) / 0.4).softmax(1)
    torch.testing.assert_close(
        ImageClassifier(network, [0.3], [0.4]).eval()(images), expected, atol=1e-5, rtol=0
    )


def test_probabilities_are_float32_whatever_the_network_computes_in():
    classifier = ImageClassifier(ours().bfloat16(), MEAN, STD)
    classifier.network.register_forward_pre_hook(lambda module, args: args[0].bfloat16())
    probabilities = classifier(random_images(4, 3, 24, 24))
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4))
