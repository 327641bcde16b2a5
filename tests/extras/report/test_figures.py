"""Figures show what they say, and any name of a class."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from src.data.folders import ImageSet
from src.extras.report import figures
from src.extras.report.evaluation import Answers, Evaluation
from src.models.cnn import ConvNet
from src.models.stem import ConvStem
from src.models.vit import VisionTransformer


def evaluation(classes, n=60):
    torch.manual_seed(0)
    probabilities = (torch.randn(n, len(classes)) * 2).softmax(1)
    answers = Answers()
    answers.add(probabilities)
    images = torch.randint(256, (n, 3, 8, 8), dtype=torch.uint8)
    labels = torch.where(
        torch.arange(n) % 3 == 0, torch.randint(len(classes), (n,)), probabilities.argmax(1)
    )
    return Evaluation("test", ImageSet(images, labels), classes, answers)


def texts(figure):
    return [
        text.get_text()
        for axes in figure.axes
        for text in (*axes.texts, *axes.get_xticklabels(), axes.title)
    ]


def vit(**more):
    small = dict(image_size=12, patch_size=4, channels=3, classes=5, width=16, depth=1, heads=2)
    return VisionTransformer(**small | more)


@pytest.mark.parametrize(
    "classes", [["$x", "a_b^", "\n\x00<b>", "名前" * 20], [f"class {k}" for k in range(130)]]
)
def test_any_names_and_any_number_of_classes(classes):
    found = evaluation(classes)
    for figure in (
        figures.confusion(found),
        figures.surest_mistakes(found, 16, 4),
        figures.reliability(found),
    ):
        width, height = Image.open(io.BytesIO(figures.png(figure))).size
        assert 100 < width <= 1300 and 100 < height <= 1300


def test_confusion_has_every_number():
    found = evaluation(list("abcd"))
    assert found.confusion().count_nonzero() > 8
    shown = texts(figures.confusion(found))
    assert sorted(t for t in shown if t.isdigit()) == sorted(
        str(int(n)) for n in found.confusion().flatten() if n
    )
    assert f"{int(found.right.sum())} of 60 test images right" in shown and {
        "a",
        "b",
        "c",
        "d",
    } < set(shown)


def test_mistakes_have_image_guess_confidence_and_truth():
    found = evaluation(["cat", "dog", "eel"])
    figure = figures.surest_mistakes(found, 5, 4)
    (axes,), first = figure.axes, int(found.surest_mistakes(1))
    names = [found.classes[int(k)] for k in (found.predicted[first], found.labels[first])]
    assert len(axes.images) == len(axes.texts) == 5
    assert (
        axes.texts[0].get_text()
        == f"{names[0]} {float(found.confidence[first]):.0%}\nis {names[1]}"
    )
    assert np.array_equal(axes.images[0].get_array(), found.images.images[first].permute(1, 2, 0))


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_position_similarity_is_the_cosine_of_patches_without_the_class_token(pool):
    network = vit(pool=pool)
    patches = network.positions[0, -9:]
    canvas = figures.position_similarity(network).axes[0].images[0].get_array()
    for of in range(9):
        expected = torch.cosine_similarity(patches[of : of + 1], patches).view(3, 3).detach()
        y, x = of // 3 * 4, of % 3 * 4
        np.testing.assert_allclose(canvas[y : y + 3, x : x + 3], expected, atol=1e-5)
    assert canvas.shape == (11, 11) and np.ma.getmaskarray(canvas)[3].all()


def test_attention_is_bright_where_the_map_is_high():
    maps = torch.zeros(2, 2, 2)
    maps[0, 0, 1], maps[1] = 1.0, 0.25  # of the second, nothing stands out
    images = torch.full((2, 1, 8, 8), 100, dtype=torch.uint8)
    pixels = [
        np.asarray(image.get_array())
        for image in figures.attention(images, maps, ["a", "b"], 4).axes[0].images
    ]
    assert len(pixels) == 4 and (pixels[0] == 100).all() and (pixels[2] == 100).all()
    light = pixels[1].sum(axis=2)
    assert light[0, 7] > 2 * light[7, 0] and light[0, 7] > 2 * light[0, 0]
    assert (pixels[3] == pixels[3][0, 0]).all()


def test_filters_of_patches_and_of_convolutions():
    network = vit()
    weight = network.embed.weight.detach()
    mosaic = torch.as_tensor(np.array(figures.filters(network).axes[0].images[0].get_array()))
    assert mosaic.shape == (3 * 5, 7 * 5, 3)  # 16 filters have 16 components
    first = mosaic[:4, :4].flatten()
    component = torch.pca_lowrank(weight, q=16)[2][:, 0]
    assert abs(torch.corrcoef(torch.stack([first, component]))[0, 1]) > 0.999
    stem = VisionTransformer(
        image_size=8,
        patch_size=None,
        stem_layers=2,
        channels=3,
        classes=5,
        width=16,
        depth=1,
        heads=2,
    )
    cnn = ConvNet(image_size=8, channels=1, classes=5)
    whitened = VisionTransformer(
        image_size=8,
        patch_size=None,
        stem_layers=2,
        whiten=True,
        channels=3,
        classes=5,
        width=16,
        depth=1,
        heads=2,
    )
    for other, count, side in ((stem, 8, 3), (cnn, 32, 3), (whitened, 8, 4)):
        picture = figures.filters(other).axes[0].images[0].get_array()
        assert picture.shape == (count // 8 * (side + 1), 8 * (side + 1), 3)


def test_the_filters_behind_a_whitening_are_what_the_first_stage_sees_of_pixels():
    stem = ConvStem(channels=3, width=16, layers=2, whiten=True).eval().requires_grad_(False)
    torch.nn.init.uniform_(stem.whiten.norm.running_var, 0.5, 2)
    images = torch.randn(2, 3, 12, 12)
    plus, minus = (stem.stages[0].conv1(stem.whiten(x)) for x in (images, -images))
    seen = torch.nn.functional.conv2d(images, figures.odd_part(stem))
    inner = (plus - minus)[..., 1:-2, 1:-2] / 2  # where no pixel is beyond the border
    assert torch.allclose(seen, inner, atol=1e-5) and seen.std() > 0.1


def test_curves_of_one_run_and_of_several():
    rows = [
        {"epoch": str(e), "train_loss": str(2.0 - e), "val_loss": "" if e else "1.5"}
        for e in range(2)
    ]
    (axes,) = figures.curves({"a": rows}, ["loss"], columns=1).axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1, 2], [2, 1]], [[1, 1.5]]]
    (axes,) = figures.curves({"a": rows, "b": rows, "empty": []}, ["loss"], columns=1).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["a, training", "a, validation", "b, training", "b, validation"]
    assert len(figures.curves({"a": []}, list(figures.PANELS), columns=2).axes) == 4
