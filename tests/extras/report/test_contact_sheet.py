"""The pictures of --show and --attention: how large they are, what is where in them, and what they may not replace."""

import numpy as np
import pytest
import torch
from batches import random_images
from photos import SEVEN, written
from PIL import Image, ImageFont
from program import call

import classify
from src.errors import InputError
from src.extras.report.contact_sheet import (
    check_path,
    fitted,
    framed,
    heated,
    shortened,
    write_attention,
    write_given,
    write_sheet,
)
from src.inference.batch import classify as classified
from src.inference.predictor import Given, Predictor

BLACK, WHITE, ORANGE = (0, 0, 0), (255, 255, 255), (224, 130, 20)


@pytest.fixture(scope="module")
def predictor(digits_run):
    return Predictor(digits_run / "checkpoints" / "best.ckpt", "cpu")


@pytest.fixture
def run(digits_run):
    return lambda *args: call(classify.main, "--ckpt", digits_run, "--device", "cpu", *args)


@pytest.fixture
def photo(tmp_path):
    written(SEVEN).save(tmp_path / "seven.png")
    return str(tmp_path / "seven.png")


def colored(*colors) -> list:
    return [
        (Image.new("RGB", (8, 8), color), Image.new("RGB", (30, 10), color), "a caption")
        for color in colors
    ]


# The sheet ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "count, columns, rows",
    [(1, 1, 1), (2, 1, 2), (4, 1, 4), (5, 2, 3), (8, 2, 4), (18, 3, 6), (64, 4, 16)],
)
def test_a_sheet_has_rows_of_one_to_four_pairs(tmp_path, count, columns, rows):
    """A pair is 2 * 224 wide, with 12 beside and between them; a row is 224 high, over 20 of text and 12 of space."""
    write_sheet(str(tmp_path / "x.png"), ("left", "right"), colored(*[BLACK] * count), count)
    sheet = Image.open(tmp_path / "x.png")
    assert sheet.format == "PNG" and sheet.size == (columns * 484, 32 + rows * 256)


def test_pairs_go_along_the_rows_each_picture_in_the_middle_of_its_place(tmp_path):
    colors = [(50 * n, 0, 255 - 50 * n) for n in range(5)]
    write_sheet(str(tmp_path / "x.png"), ("left", "right"), colored(*colors), 5)
    pixels = np.asarray(Image.open(tmp_path / "x.png"))
    for number, color in enumerate(colors):
        left, top = 484 * (number % 2) + 12, 32 + 256 * (number // 2)
        assert (pixels[top : top + 224, left : left + 224] == color).all()
        right = pixels[
            top : top + 224, left + 236 : left + 460
        ]  # 30 x 10 pixels, 224 x 75 in its middle
        assert (
            (right[75:149] == color).all()
            and (right[:74] == WHITE).all()
            and (right[151:] == WHITE).all()
        )
        assert (pixels[top + 226 : top + 244, left : left + 200] != WHITE).any()  # the caption
    assert (pixels[32 + 512 :, 484:] == WHITE).all()  # there is no sixth
    assert (pixels[6:26, 12:100] != WHITE).any() and (
        pixels[6:26, 484 + 12 : 484 + 100] != WHITE
    ).any()  # the titles


def test_more_images_than_are_shown_are_said(tmp_path, capsys):
    write_sheet(str(tmp_path / "x.png"), ("", ""), colored(BLACK), 64)
    assert capsys.readouterr().err == ""
    write_sheet(str(tmp_path / "x.png"), ("", ""), colored(*[BLACK] * 3), 1234)
    assert capsys.readouterr().err == f"note: {tmp_path}/x.png shows the first 3 of 1,234 images\n"


def test_where_nothing_could_be_read_the_sheet_of_before_stays(tmp_path):
    (tmp_path / "x.png").write_bytes(b"of before")
    with pytest.raises(InputError, match="x.png: there is nothing to draw"):
        write_sheet(str(tmp_path / "x.png"), ("", ""), [], 2)
    assert (tmp_path / "x.png").read_bytes() == b"of before"


@pytest.mark.parametrize(
    "size, expected", [((8, 8), (224, 224)), ((3000, 1500), (224, 112)), ((1, 500), (1, 224))]
)
def test_a_picture_is_fitted_by_its_longer_side(size, expected):
    assert fitted(Image.new("RGB", size)).size == expected


def test_small_images_keep_their_pixels():
    pixels = random_images(28, 28, 3).numpy()
    assert np.array_equal(
        np.asarray(fitted(Image.fromarray(pixels))), pixels.repeat(8, 0).repeat(8, 1)
    )


def test_a_long_caption_keeps_its_end():
    font = ImageFont.load_default(14)
    text = "photo_" * 40 + "last.png: 7, 99.9%"
    short = shortened(text, font, 300)
    assert short[0] == "…" and text.endswith(short[1:]) and short.endswith("last.png: 7, 99.9%")
    assert 280 < font.getlength(short) <= 300 < font.getlength(text)
    assert shortened("a\nb\x1b[31m.png", font, 300) == "a?b?[31m.png"


# What is on it --------------------------------------------------------------------------------------------------------


def test_a_frame_is_around_what_was_found():
    """The box is 56 to 112 across and 42 to 84 down in a photo that is shown 224 x 168: the frame lies 4 beyond it."""
    photo = framed(Image.new("L", (640, 480), 100), (0.25, 0.25, 0.5, 0.5))
    frame = (np.asarray(photo) == ORANGE).all(-1)
    rows, columns = frame.any(1).nonzero()[0], frame.any(0).nonzero()[0]
    assert (columns[0], columns[-1], rows[0], rows[-1]) == (52, 115, 38, 87) and not frame[
        42:84, 56:112
    ].any()
    assert (np.asarray(framed(Image.new("L", (640, 480), 100), None)) == 100).all()


def test_attention_is_bright_where_it_is_most_over_the_image_in_gray():
    attention = torch.zeros(4, 4)
    attention[1, 2] = 1
    pixels = np.asarray(heated(torch.full((3, 32, 32), 200, dtype=torch.uint8), attention)).astype(
        int
    )
    most, least = pixels[84, 140], pixels[196, 28]  # the middles of two of the 16 parts
    assert (
        abs(most - (0.7 * np.array([252, 255, 164]) + 60)).max() < 12
    )  # 0.3 of 200 is the image's part
    assert abs(least - (0.7 * np.array([0, 0, 4]) + 60)).max() < 12
    assert np.asarray(heated(torch.zeros(1, 8, 8, dtype=torch.uint8), torch.ones(2, 2))).shape == (
        224,
        224,
        3,
    )


def test_show_has_the_photo_with_a_frame_beside_what_the_network_was_given(
    predictor, photo, tmp_path
):
    results = list(classified(predictor, [photo], 1))
    write_given(str(tmp_path / "x.png"), results, 1)
    pixels = np.asarray(Image.open(tmp_path / "x.png"))
    left, right = pixels[32:256, 12:236], pixels[32:256, 248:472]
    frame = (left == ORANGE).all(-1).nonzero()
    expected = np.array([0.25, 0.3]) * 300 + (
        0,
        10,
    )  # where the seven begins, down and across, in 320 x 300 pixels
    place = (np.array([frame[0].min(), frame[1].min()]) - ((224 - 210) / 2, 0)) / 0.7
    assert place == pytest.approx(
        expected - 8 - 4 / 0.7, abs=3
    )  # half the pen and the distance of the frame before it
    image = results[0][1].image[0].numpy()
    assert np.array_equal(right, image.repeat(28, 0).repeat(28, 1)[..., None].repeat(3, 2))


def test_an_image_of_the_dataset_is_shown_without_its_file(tmp_path):
    image = random_images(1, 8, 8)
    row = {
        "path": "digits test image 3",
        "predictions": [{"class": "7", "probability": 0.9}],
        "target": "2",
    }
    write_given(str(tmp_path / "x.png"), [(row, Given(image, []))], 1)
    pixels = np.asarray(Image.open(tmp_path / "x.png"))
    assert np.array_equal(pixels[32:256, 12:236], pixels[32:256, 248:472])


def test_attention_has_what_the_network_was_given_beside_where_it_looked(
    predictor, photo, tmp_path
):
    results = list(classified(predictor, [photo] * 3, 1))
    write_attention(str(tmp_path / "x.png"), results, 3, predictor)
    pixels = np.asarray(Image.open(tmp_path / "x.png"))
    assert pixels.shape == (32 + 3 * 256, 484, 3)
    left, right = pixels[32:256, 12:236], pixels[32:256, 248:472]
    assert np.array_equal(left[..., 0], results[0][1].image[0].numpy().repeat(28, 0).repeat(28, 1))
    expected = heated(results[0][1].image, predictor.attention(results[0][1].image[None])[0])
    assert np.array_equal(right, np.asarray(expected)) and right.std() > 5


# What it may not replace ----------------------------------------------------------------------------------------------


def refusal(path, images=()) -> str:
    with pytest.raises(InputError) as caught:
        check_path(str(path), "--show", list(images))
    return str(caught.value)


def test_where_no_picture_can_be_written(tmp_path, photo):
    assert f"--show {tmp_path}/x.jpg: pictures are written as PNG" in refusal(tmp_path / "x.jpg")
    assert "pictures are written as PNG" in refusal(tmp_path)
    assert "its folder is not there; make it first" in refusal(tmp_path / "none" / "x.png")
    assert "its folder is not there" in refusal(tmp_path / "seven.png" / "x.png")
    assert "its folder is not there" in refusal(tmp_path / ("long" * 99) / "x.png")
    (tmp_path / "folder.png").mkdir()
    assert "would replace a folder" in refusal(tmp_path / "folder.png")
    (tmp_path / "link.png").symlink_to(photo)
    for path in (photo, tmp_path / "link.png", tmp_path / "." / "seven.png"):
        assert "would replace an image to classify" in refusal(path, ["nowhere.png", photo])


def test_where_one_can(tmp_path, photo):
    (tmp_path / "old.png").write_bytes(b"")
    for path in (tmp_path / "new.PNG", tmp_path / "old.png"):
        check_path(str(path), "--show", [photo, "nowhere.png", "long" * 99])


@pytest.mark.parametrize("flag", ["--show", "--attention"])
@pytest.mark.parametrize("how", ["the file", "its folder", "a pattern"])
def test_an_image_that_is_classified_is_never_replaced(run, photo, tmp_path, flag, how):
    before = (tmp_path / "seven.png").read_bytes()
    images = {"the file": photo, "its folder": tmp_path, "a pattern": tmp_path / "*.png"}[how]
    assert f"{flag} {photo}: would replace an image to classify" in run(images, flag, photo).error
    assert (tmp_path / "seven.png").read_bytes() == before


def test_a_name_that_is_too_long_is_one_line(run, photo, tmp_path):
    assert (
        "could not be written (File name too long)"
        in run(photo, "--show", tmp_path / f"{'x' * 300}.png").err
    )


def test_both_pictures_at_once_but_not_in_the_same_file(run, photo, tmp_path):
    both, one = ["--show", tmp_path / "a.png", "--attention"], tmp_path / "a.png"
    assert "--attention" in run(photo, *both, one).error and not one.exists()
    assert run(photo, *both, tmp_path / "b.png").code == 0
    sheets = [np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png")]
    assert np.array_equal(
        sheets[0][32:256, 248:472], sheets[1][32:256, 12:236]
    )  # what the network was given


def test_a_broken_file_among_several_is_left_out(run, photo, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"")
    ended = run(tmp_path, "--show", tmp_path.parent / "sheet.png", "--csv")
    assert ended.code == 1 and Image.open(tmp_path.parent / "sheet.png").size == (484, 288)
    (tmp_path / "seven.png").unlink()
    ended = run(tmp_path / "broken.png", "nowhere.png", "--show", tmp_path.parent / "none.png")
    assert (
        ended.code == 2
        and "there is nothing to draw" in ended.err
        and not (tmp_path.parent / "none.png").exists()
    )
