"""Test that figures show the correct values and handle arbitrary class names."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from src.config import CNNConfig, DatasetInfo, ViTConfig
from src.data.image_set import ImageSet
from src.extras.report import figures
from src.extras.report.evaluation import Evaluation, summarize
from src.models.build import build_network


def evaluate(classes, n=60):
    """Return an `Evaluation` of random images in which every third label is random."""
    probabilities = torch.randn(n, len(classes)).mul(2).softmax(1)
    labels = probabilities.argmax(1)
    labels[::3] = torch.randint(len(classes), [n // 3])
    images = torch.randint(256, (n, 3, 8, 8), dtype=torch.uint8)
    return Evaluation(
        "test",
        ImageSet(images, labels),
        tuple(classes),
        [summarize(probabilities)],
    )


def build(config, patch_size=4, image_size=12):
    dataset = DatasetInfo(
        classes=5,
        channels=3,
        image_size=image_size,
        patch_size=patch_size,
    )
    return build_network(config, dataset)


def picture(figure):
    """Return the pixel values of the first image in a figure."""
    return figure.axes[0].images[0].get_array()


@pytest.mark.parametrize(
    "classes",
    [
        ["$x", "a_b^", "\n\x00<b>", "名前" * 20],
        [f"class {k}" for k in range(130)],
    ],
)
def test_any_names_and_any_number_of_classes(classes):
    evaluation = evaluate(classes)
    with figures.plain_text(), warnings.catch_warnings():
        warnings.simplefilter("error", append=True)
        for figure in (
            figures.confusion(evaluation),
            figures.confident_mistakes(evaluation, 16, 4),
            figures.reliability(evaluation),
        ):
            picture = Image.open(io.BytesIO(figures.png(figure)))
            assert min(picture.size) > 100
            assert max(picture.size) <= 1300


def test_confusion_shows_every_count():
    evaluation = evaluate("abcd")
    counts = evaluation.confusion()
    assert counts.count_nonzero() > 8
    (axes,) = figures.confusion(evaluation).axes
    drawn = [int(text.get_text()) for text in axes.texts]
    assert sorted(drawn) == sorted(counts[counts > 0].tolist())
    assert [label.get_text() for label in axes.get_yticklabels()] == list("abcd")


def test_mistakes_show_image_prediction_confidence_and_class():
    evaluation = evaluate(["cat", "dog", "eel"])
    axes = figures.confident_mistakes(evaluation, 5, 4).axes
    assert [len(place.images) for place in axes] == [1] * 5 + [0] * 3
    first = int(evaluation.confident_mistakes(1))
    predicted = evaluation.classes[evaluation.predicted[first]]
    true = evaluation.classes[evaluation.labels[first]]
    confidence = evaluation.confidence[first]
    assert axes[0].get_title() == f"{predicted} {confidence:.0%}\ntrue: {true}"
    image = evaluation.images.images[first].permute(1, 2, 0)
    assert np.array_equal(axes[0].images[0].get_array(), image)


def test_curves_leave_out_missing_values():
    rows = [
        {"epoch": "0", "train_loss": "2.0", "val_loss": "1.5"},
        {"epoch": "1", "train_loss": "nan", "val_loss": ""},
    ]
    figure = figures.curves(rows)
    curves = {line.get_label(): line.get_xdata().tolist() for line in figure.axes[0].lines}
    assert curves == {"train loss": [1, 2], "val loss": [1]}
    figures.png(figure)


# Weights ------------------------------------------------------------------------------------------


SMALL = {"width": 16, "depth": 1, "heads": 2}


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_position_similarity_is_the_cosine_of_patches_without_the_class_token(pool):
    network = build(ViTConfig(**SMALL, pool=pool))
    canvas = picture(figures.position_similarity(network))
    assert canvas.shape == (13, 13)
    patches = network.positions[0, -9:].detach()
    for number, patch in enumerate(patches):
        row, column = divmod(number, 3)
        y, x = 4 * row + 1, 4 * column + 1
        similarity = canvas[y : y + 3, x : x + 3].flatten()
        expected = torch.cosine_similarity(patch, patches)
        np.testing.assert_allclose(similarity, expected, atol=1e-5)


def test_filters_of_patches_are_principal_components():
    network = build(ViTConfig(**SMALL))
    grid = picture(figures.filters(network))
    assert grid.shape == (2 * 5 + 1, 8 * 5 + 1, 3)  # 16 filters have 16 principal components
    first = grid[1:5, 1:5].flatten()
    weight = network.embed.weight.detach()
    component = torch.pca_lowrank(weight, q=16)[2][:, 0]
    correlation = np.corrcoef(first, component)[0, 1]
    assert abs(correlation) > 0.999


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (ViTConfig(**SMALL, stem_layers=2), (5, 33, 3)),
        (ViTConfig(**SMALL, stem_layers=2, whiten=True), (7, 25, 3)),
        (CNNConfig(), (17, 33, 3)),
    ],
)
def test_filters_of_convolutions(config, shape):
    network = build(config, patch_size=None, image_size=8)
    assert picture(figures.filters(network)).shape == shape
