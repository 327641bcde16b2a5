"""Image files of strangers: each is read as it looks, or refused in one line; none costs much memory."""

import os
import random
import resource
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from program import ROOT, as_another_user, classify, forks

from src.data.images import read_image
from src.errors import InputError
from src.inference.predictor import Predictor

# A photo-like picture: a bright spot to the upper left, so that turning or mirroring it shows.
Y, X = np.mgrid[0:30, 0:40]
RED = (250 * np.exp(-((X - 12) ** 2 + (Y - 8) ** 2) / 120)).astype(np.uint8)
PHOTO = Image.fromarray(np.stack([RED, (6 * X).astype(np.uint8), (8 * Y).astype(np.uint8)], axis=2))


def read(path, size=20, channels=3):
    return read_image(path, size, channels).int()


def close(a, b, most) -> bool:
    return a.shape == b.shape and (a - b).abs().max() <= most


@pytest.fixture
def upright(tmp_path):
    PHOTO.save(tmp_path / "upright.png")
    return read(tmp_path / "upright.png")


# Every kind of image looks as it should -------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "tif"])
def test_a_turned_photo_is_turned_upright(tmp_path, upright, orientation, extension):
    turn = {
        2: 0,
        3: 3,
        4: 1,
        5: 5,
        6: 2,
        7: 6,
        8: 4,
    }  # what the camera did: the inverse of what undoes it
    stored = PHOTO.transpose(Image.Transpose(turn[orientation])) if orientation > 1 else PHOTO
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(
        extension, {}
    )
    stored.save(tmp_path / f"x.{extension}", exif=exif, **lossless)
    assert close(read(tmp_path / f"x.{extension}"), upright, 6 if extension == "jpg" else 1)


@pytest.mark.parametrize("extension", ["png", "tif", "ppm"])
def test_16_bits_are_scaled_to_8(tmp_path, extension):
    Image.fromarray(RED.astype(np.uint16) * 257).save(tmp_path / f"x.{extension}")
    Image.fromarray(RED).save(tmp_path / "8.png")
    assert close(read(tmp_path / f"x.{extension}"), read(tmp_path / "8.png"), 1)
    assert read(tmp_path / f"x.{extension}").max() > 200


@pytest.mark.parametrize("white", [255, 1])
def test_floating_point_values_are_read_as_they_are(tmp_path, white):
    values = RED.astype(np.float32) * (white / 255)
    values[0, :3] = np.nan, np.inf, -np.inf
    Image.fromarray(values).save(tmp_path / "x.tif")
    Image.fromarray(RED).save(tmp_path / "8.png")
    assert close(read(tmp_path / "x.tif"), read(tmp_path / "8.png"), 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_is_white(tmp_path, mode):
    image = PHOTO.convert("RGBA")
    image.paste((9, 9, 9, 0), (0, 0, 40, 10))  # invisible, and dark
    (image.quantize(16) if mode == "P" else image.convert(mode)).save(tmp_path / "x.png")
    pixels = read(tmp_path / "x.png")
    assert (pixels[:, :5] >= 250).all() and (pixels[:, 10:] < 250).any()
    assert (read(tmp_path / "x.png", channels=1)[0, :5] >= 250).all()


def test_half_transparent_is_half_white(tmp_path):
    Image.new("RGBA", (30, 30), (100, 0, 50, 128)).save(tmp_path / "x.png")
    assert close(read(tmp_path / "x.png")[:, 3, 3], torch.tensor([177, 127, 152]), 1)


def test_a_transparent_color_is_white(tmp_path):
    Image.new("RGB", (30, 30), (1, 2, 3)).save(tmp_path / "x.png", transparency=(1, 2, 3))
    assert (read(tmp_path / "x.png") == 255).all()


@pytest.mark.parametrize(
    "kind", "CMYK.jpg CMYK.tif YCbCr.jpg P.gif P.png P.bmp RGB.bmp RGB.webp".split()
)
def test_colors_of_every_mode(tmp_path, upright, kind):
    mode, extension = kind.split(".")
    image = PHOTO.quantize(256) if mode == "P" else PHOTO.convert(mode)
    image.save(tmp_path / f"x.{extension}", quality=100)
    assert (read(tmp_path / f"x.{extension}") - upright).abs().float().mean() < 8


def test_black_and_white(tmp_path):
    Image.fromarray(RED > 100).save(tmp_path / "x.png")
    assert set(read(tmp_path / "x.png", 30, 1)[0].unique().tolist()) == {0, 255}


@pytest.mark.parametrize("extension", ["gif", "webp", "png", "tif"])
def test_an_animation_is_its_first_frame(tmp_path, upright, extension):
    frames = [PHOTO, Image.new("RGB", PHOTO.size, "green"), Image.new("RGB", PHOTO.size, "blue")]
    lossless = {"lossless": True} if extension == "webp" else {}
    frames[0].save(tmp_path / f"x.{extension}", save_all=True, append_images=frames[1:], **lossless)
    with Image.open(tmp_path / f"x.{extension}") as image:
        assert image.n_frames == 3
    assert (read(tmp_path / f"x.{extension}") - upright).abs().float().mean() < 8


def test_a_wrong_extension_does_not_matter(tmp_path, upright):
    PHOTO.save(tmp_path / "x.jpg", format="PNG")
    assert torch.equal(read(tmp_path / "x.jpg"), upright)


@pytest.mark.parametrize("size", [(1, 1), (20000, 10), (10, 20000), (20, 20), (21, 20)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_size_is_made_to_fit(tmp_path, size, channels):
    Image.new("RGB", size, (200, 200, 200)).save(tmp_path / "x.png")
    assert torch.equal(
        read(tmp_path / "x.png", 20, channels), torch.full((channels, 20, 20), 200).int()
    )


def test_a_large_photo_looks_like_its_small_copy(tmp_path, upright):
    PHOTO.resize((4000, 3000)).save(
        tmp_path / "x.jpg", quality=95
    )  # is decoded at a fraction of its size
    assert (read(tmp_path / "x.jpg") - upright).abs().float().mean() < 4


def test_an_image_is_cropped_to_its_center_square(tmp_path):
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    image.save(tmp_path / "wide.png")
    inner = read_image(tmp_path / "wide.png", 10, 3)[:, :, 1:-1]
    assert inner.flatten(1).unique(dim=1).flatten().tolist() == [0, 0, 255]


# What is not an image is refused --------------------------------------------------------------------------------------


def refusal(path) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and "; " in message
    return message


def with_checksums(data: bytes) -> bytes:
    """A PNG with the checksums of its parts mended, so that what is altered gets as far as the decoder."""
    mended, place = data[:8], 8
    while (end := place + 8 + int.from_bytes(data[place : place + 4], "big")) <= len(data) - 4:
        mended += data[place:end] + struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return mended + data[place:]


@pytest.mark.parametrize("width, height", [(9000, 5000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_declared_size(tmp_path, width, height):
    PHOTO.save(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(
        with_checksums(data[:16] + struct.pack(">II", width, height) + data[24:])
    )
    expected = "declares 9000x5000 pixels, for PNG at most 39,146,837 are decoded; make it smaller"
    assert (expected if width == 9000 else "") in refusal(
        tmp_path / "x.png"
    )  # of the others Pillow says so itself


def test_a_sheet_of_paper_scanned_at_600_dpi_is_read(tmp_path):
    Image.new("L", (4960, 7016), 200).save(tmp_path / "scan.png")
    assert (read(tmp_path / "scan.png") == 200).all()


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "gif", "bmp", "tif"])
@pytest.mark.parametrize("part", [0.02, 0.5])
def test_a_truncated_file_is_refused(tmp_path, extension, part):
    PHOTO.save(tmp_path / "whole", format={"jpg": "jpeg", "tif": "tiff"}.get(extension, extension))
    data = (tmp_path / "whole").read_bytes()
    (tmp_path / f"x.{extension}").write_bytes(data[: int(len(data) * part)])
    assert "replace or remove it" in refusal(tmp_path / f"x.{extension}")


def test_what_is_not_a_file_is_refused(tmp_path):
    (tmp_path / "empty.png").touch()
    assert "is empty (zero bytes); replace or remove it" in refusal(tmp_path / "empty.png")
    assert "is a directory; name image files" in refusal(tmp_path)
    assert "there is no such file; check the path" in refusal(tmp_path / "missing.png")
    assert "not a regular file" in refusal("/dev/zero")
    os.mkfifo(tmp_path / "fifo.png")
    assert "not a regular file" in refusal(tmp_path / "fifo.png")  # and does not wait for a writer
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert "check the path" in refusal(tmp_path / "loop.png")
    (tmp_path / "text.png").write_text("hello")
    assert "not an image in a format we read" in refusal(tmp_path / "text.png")
    (tmp_path / "x.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    refusal(tmp_path / "x.svg")
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(2**40)  # takes no room: it is a hole
    assert "is more than 128 MiB; make it smaller" in refusal(tmp_path / "large.png")
    with pytest.raises(InputError):
        read("nul\0.png")


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_file_without_permission_is_refused(digits_run, tmp_path):
    prepare, checkpoint = as_another_user(tmp_path), tmp_path / "x.ckpt"
    checkpoint.write_bytes((digits_run / "checkpoints" / "best.ckpt").read_bytes())
    PHOTO.save(tmp_path / "x.png")
    (tmp_path / "x.png").chmod(0)
    ended = classify(tmp_path / "x.png", "--ckpt", checkpoint, prepare=prepare)
    assert f"{tmp_path / 'x.png'}: no permission to read it; change its permissions" in ended.error
    checkpoint.chmod(0)
    ended = classify("x.png", "--ckpt", checkpoint, prepare=prepare)
    assert f"{checkpoint}: cannot be read: Permission denied; check its permissions" in ended.error


@pytest.mark.skipif(os.name != "posix", reason="elsewhere, names are text")
def test_a_name_that_is_not_text(digits_run, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    PHOTO.save(path)
    ended = classify(path, "--ckpt", digits_run)
    assert "caf?.png" in ended.text and "Traceback" not in ended.text


# Mutations ------------------------------------------------------------------------------------------------------------


def seeds(folder) -> list[bytes]:
    """Small files of all six formats, in the variants that take different paths through their decoders."""
    deep = Image.fromarray(RED.astype(np.uint16) * 257)
    exif, frames = (
        Image.Exif(),
        {"save_all": True, "append_images": [PHOTO.rotate(90), PHOTO.rotate(180)]},
    )
    exif[0x0112], exif[0x010F] = 6, "camera"
    few, see_through = PHOTO.quantize(16), PHOTO.convert("RGBA")
    kinds = [(PHOTO, kind, {}) for kind in ("png", "webp", "gif", "bmp", "tiff")]
    kinds += [
        (few, "png", {"transparency": 3}),
        (see_through, "png", frames),
        (deep, "png", {}),
        (few, "bmp", {}),
    ]
    kinds += [
        (PHOTO.convert("1"), "png", {}),
        (PHOTO, "jpeg", {"exif": exif}),
        (PHOTO, "jpeg", {"progressive": True}),
    ]
    kinds += [
        (PHOTO.convert("CMYK"), "jpeg", {}),
        (see_through, "webp", {"lossless": True}),
        (PHOTO, "webp", frames),
    ]
    kinds += [(PHOTO, "gif", frames), (PHOTO.convert("F"), "tiff", frames)]
    kinds += [(PHOTO, "tiff", {"compression": name}) for name in ("tiff_lzw", "jpeg")]
    kinds += [(deep, "tiff", {"compression": "tiff_adobe_deflate"})]
    files = []
    for image, kind, options in kinds:
        image.save(folder / "seed", format=kind, **options)
        files.append((folder / "seed").read_bytes())
    return files


def mutate(data: bytes, chance: random.Random) -> bytes:
    data, kind = bytearray(data), chance.randrange(6)
    place = min(chance.randrange(len(data)), chance.randrange(len(data)))  # the headers more often
    if kind == 0:
        return bytes(data[:place])
    if kind == 1:
        data[place:place] = data[chance.randrange(len(data)) :][: chance.randint(1, 40)]
    elif kind == 2:
        extremes = [b"\xff\xff\xff\x7f", b"\0\0\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"]
        data[place : place + 4] = chance.choice(extremes)
    else:
        for _ in range(chance.randint(1, 6)):
            data[min(chance.randrange(len(data)), place + chance.randrange(64))] ^= (
                1 << chance.randrange(8)
            )
    is_png = data.startswith(b"\x89PNG")
    return with_checksums(bytes(data)) if is_png and chance.random() < 0.5 else bytes(data)


def fuzz(folder, checkpoint, results) -> None:
    os.chdir(ROOT)
    predictor, chance = Predictor(checkpoint, "cpu"), random.Random(0)
    path, counts = folder / "x", {"read": 0, "refused": 0}
    originals = seeds(folder)
    for number in range(2000):
        path.write_bytes(mutate(originals[number % len(originals)], chance))
        try:
            if number % 3:
                read_image(path, 8, 1)
            else:
                predictor.top(
                    predictor.read([str(path)]), 1
                )  # what is decoded becomes a photo, and takes longer
            counts["read"] += 1
        except InputError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
            counts["refused"] += 1
    results.put((counts, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def test_2000_mutations_of_images(digits_run, tmp_path):
    """In a process of its own, whose memory is measured, and which a decoder that crashes would end."""
    results = forks.SimpleQueue()
    process = forks.Process(
        target=fuzz, args=(tmp_path, digits_run / "checkpoints" / "best.ckpt", results)
    )
    process.start()
    process.join(100)
    assert process.exitcode == 0
    counts, memory = results.get()
    assert sum(counts.values()) == 2000 and min(counts.values()) > 300
    assert memory < 2**30
