"""Compare `ImageClassifier` with the separate preprocessing and prediction steps of training."""

import pytest
from batches import random_images
from torch.testing import assert_close
from vits import dataset, ours, randomize

from src.config import CNNConfig
from src.inference.pipeline import ImageClassifier
from src.models.cnn import ConvNet
from src.models.ensemble import Ensemble
from src.transforms.patchify import normalize, patchify

MEAN = [0.4914, 0.4822, 0.4465]
STD = [0.2470, 0.2435, 0.2616]
CLOSE = {"atol": 1e-5, "rtol": 0}


def ensemble():
    return Ensemble([ours(), ours()]).eval()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("make", [ours, ensemble])
def test_pipeline_normalizes_patchifies_and_applies_softmax(make, temperature):
    network = make()
    images = random_images(4, 3, 24, 24)
    classifier = ImageClassifier(network, MEAN, STD, temperature).eval()
    patches = patchify(normalize(images, MEAN, STD), 8)
    logits = network(patches) / temperature
    assert logits.std() > 0.1
    assert_close(classifier.logits(images), logits, **CLOSE)
    assert_close(classifier(images), logits.softmax(1), **CLOSE)


def test_cnn_reads_whole_images():
    images = dataset(image_size=8, patch_size=None, channels=1)
    network = randomize(ConvNet(CNNConfig(), images)).eval()
    pixels = random_images(4, 1, 8, 8)
    expected = network((pixels / 255 - 0.3) / 0.4).softmax(1)
    classifier = ImageClassifier(network, [0.3], [0.4]).eval()
    assert_close(classifier(pixels), expected, **CLOSE)
