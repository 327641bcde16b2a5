"""Test the contact sheets of --show and --attention: layout, content and output paths."""

import numpy as np
import pytest
import torch
from photos import SEVEN, written
from PIL import Image
from program import call

import classify
from src.extras.paper.reader import digit_reader
from src.extras.report.contact_sheet import (
    _caption,
    draw_frame,
    overlay_attention,
    write_attention,
    write_inputs,
    write_sheet,
)
from src.inference import batch
from src.inference.predictor import Predictor

WHITE, ORANGE = (255, 255, 255), (224, 130, 20)


@pytest.fixture(scope="module")
def predictor(digits_run):
    return Predictor(digits_run / "checkpoints" / "best.ckpt", "cpu")


@pytest.fixture
def run(digits_run):
    return lambda *args: call(classify.main, "--ckpt", digits_run, "--device", "cpu", *args)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "seven.png"
    written(SEVEN).save(path)
    return path


@pytest.fixture
def results(predictor, photo):
    """Return the results for two copies of the photo."""
    reader = digit_reader(predictor.dataset, "auto")
    return list(batch.classify(predictor, [str(photo)] * 2, 1, reader))


def read(path):
    return np.asarray(Image.open(path))


def halves(pixels, row=0):
    """Return the left and right images of the first pair in the given row."""
    rows = pixels[32 + 256 * row :][:224]
    return rows[:, 12:236], rows[:, 248:472]


def enlarge(image):
    """Enlarge an image, uint8 [1, 8, 8], to [224, 224, 3] by repeating pixels."""
    return image[0].numpy().repeat(28, 0).repeat(28, 1)[..., None].repeat(3, 2)


# Layout -------------------------------------------------------------------------------------------


def test_pairs_are_laid_out_in_rows_and_pictures_centered(tmp_path):
    colors = [(50 * n, 0, 255 - 50 * n) for n in range(5)]
    pairs = [
        (Image.new("RGB", (8, 8), color), Image.new("RGB", (30, 10), color), "a caption")
        for color in colors
    ]
    write_sheet(str(tmp_path / "x.png"), "left | right", pairs)
    pixels = read(tmp_path / "x.png")
    assert pixels.shape == (32 + 2 * 256, 4 * 484, 3)
    for number, color in enumerate(colors):
        row, column = divmod(number, 4)
        left, right = halves(pixels[:, 484 * column :], row)
        assert (left == color).all()
        assert (right[75:149] == color).all()  # 30x10 is enlarged to 224x75
        assert (right[:74] == WHITE).all()


def test_a_caption_says_that_the_answer_is_unsure():
    row = {"path": "a\nb.png", "predictions": [{"class": "cat", "probability": 0.5}]}
    assert _caption(row) == "cat, 50.0%: a?b.png"
    assert _caption(row | {"answer": "unsure"}) == "unsure (cat, 50.0%): a?b.png"


# Content ------------------------------------------------------------------------------------------


def test_frame_surrounds_the_box():
    photo = Image.new("L", (640, 480))  # resized to 224x168
    framed = draw_frame(photo, (0.25, 0.25, 0.5, 0.5))
    assert framed.getbbox() == (56 - 4, 42 - 4, 112 + 4, 84 + 4)
    inside = framed.crop((56, 42, 112, 84))
    assert inside.getbbox() is None  # only the frame is drawn


def test_attention_is_bright_over_a_gray_image():
    attention = torch.zeros(4, 4)
    attention[1, 2] = 1
    image = torch.full((3, 32, 32), 200, dtype=torch.uint8)
    overlay = overlay_attention(image, attention)
    for center, color in (
        ((140, 84), (252, 255, 164)),
        ((28, 196), (0, 0, 4)),
    ):
        expected = [0.7 * channel + 0.3 * 200 for channel in color]
        assert overlay.getpixel(center) == pytest.approx(expected, abs=12)
    constant = overlay_attention(image, torch.ones(2, 2))
    assert constant.size == (224, 224)


def test_show_has_the_framed_photo_and_the_network_input(results, tmp_path):
    write_inputs(str(tmp_path / "x.png"), results)
    left, right = halves(read(tmp_path / "x.png"))
    prepared = results[0][1]
    framed = np.asarray(draw_frame(written(SEVEN), prepared.box))
    assert (framed == ORANGE).all(-1).any()
    assert np.array_equal(left[7:217], framed)
    assert np.array_equal(right, enlarge(prepared.image))


def test_test_images_are_shown_without_a_file(results, tmp_path):
    row, prepared = results[0]
    row |= {"path": "digits test image 3", "target": "2"}
    write_inputs(str(tmp_path / "x.png"), [(row, prepared._replace(box=None))])
    left, right = halves(read(tmp_path / "x.png"))
    assert np.array_equal(left, enlarge(prepared.image))
    assert np.array_equal(left, right)


def test_attention_has_the_network_input_and_its_overlay(predictor, results, tmp_path):
    write_attention(str(tmp_path / "x.png"), results, predictor)
    left, right = halves(read(tmp_path / "x.png"))
    image = results[0][1].image
    overlay = overlay_attention(image, predictor.attention(image[None])[0])
    assert np.std(overlay) > 5
    assert np.array_equal(left, enlarge(image))
    assert np.array_equal(right, overlay)


# Paths --------------------------------------------------------------------------------------------


def test_an_image_to_classify_is_never_replaced(run, photo, tmp_path):
    before = photo.read_bytes()
    (tmp_path / "link.png").symlink_to(photo)
    for flag in ("--show", "--attention"):
        error = run(tmp_path, "nowhere.png", flag, tmp_path / "link.png").error
        assert "would overwrite an input image" in error
    assert photo.read_bytes() == before


def test_both_pictures_need_different_files(run, photo, tmp_path):
    a = tmp_path / "a.png"
    b = tmp_path / "b.png"
    assert "--attention" in run(photo, "--show", a, "--attention", a).error
    assert not a.exists()
    assert run(photo, "--show", a, "--attention", b).code == 0
    (_, shown), (attended, _) = halves(read(a)), halves(read(b))
    assert np.array_equal(shown, attended)  # both contain the network input


def test_unreadable_files_are_left_out(run, photo, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"")
    sheet = tmp_path.parent / "sheet.png"
    assert run(tmp_path, "--show", sheet, "--csv").code == 1
    before = sheet.read_bytes()
    assert Image.open(sheet).size == (484, 288)
    ended = run(tmp_path / "broken.png", "nowhere.png", "--show", sheet)
    assert ended.code == 2
    assert "nothing to draw" in ended.err
    assert sheet.read_bytes() == before
