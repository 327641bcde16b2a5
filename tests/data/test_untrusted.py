"""Test that untrusted images are decoded or rejected with one line, without using much memory."""

import errno
import os
import random
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from program import classify, forks

from src.data.images import read_image, read_photo
from src.errors import InputError

PHOTO = Image.linear_gradient("L").resize((40, 30)).convert("RGB")
ANIMATION = {"save_all": True, "append_images": [PHOTO.rotate(90), PHOTO.rotate(180)]}


def refusal(path) -> str:
    with pytest.raises(InputError) as caught:
        read_image(path, 20, 3)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def with_checksums(data: bytes) -> bytes:
    """Update the checksums of a PNG file, so that the altered data reaches the decoder."""
    corrected, data = data[:8], data[8:]
    while len(data) >= 12:
        end = 8 + int.from_bytes(data[:4], "big")
        checksum = struct.pack(">I", zlib.crc32(data[4:end]))
        corrected += data[:end] + checksum
        data = data[end + 4 :]
    return corrected + data


@pytest.mark.parametrize("side", [9000, 30_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_by_its_declared_size(tmp_path, side):
    path = tmp_path / "x.png"
    PHOTO.save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", side, side)
    path.write_bytes(with_checksums(data))
    message = refusal(path)
    if side == 9000:  # Pillow itself rejects larger images
        assert "has 9000x9000 pixels, but the limit for PNG is 39,146,837" in message


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "gif", "bmp", "tif"])
@pytest.mark.parametrize("part", [0.02, 0.5])
def test_a_truncated_file_is_refused(tmp_path, extension, part):
    path = tmp_path / f"x.{extension}"
    PHOTO.save(path)
    os.truncate(path, int(path.stat().st_size * part))
    assert "cannot be read as an image" in refusal(path)


def test_what_is_not_an_image_file_is_refused(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "phone.heic").write_text("hello")
    os.mkfifo(tmp_path / "fifo.png")  # opening it must not block
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(2**40)  # sparse file
    reasons = {
        "empty.png": "not an image in a supported format",
        "": "must be a regular file",
        "missing.png": "no such file; check the path",
        "fifo.png": "must be a regular file",
        "loop.png": "check the path",
        "text.png": "not an image in a supported format",
        "phone.heic": "convert it to JPEG, for example with ImageMagick",
        "large.png": "must be a regular file of at most 128 MiB",
        "nul\0.png": "not a valid path",
    }
    for name, reason in reasons.items():
        assert reason in refusal(tmp_path / name)
    assert "must be a regular file" in refusal("/dev/zero")


def test_a_file_without_permission_is_refused(monkeypatch):
    """Simulate the lack of read permission, because root can read every file."""

    def refuse(*args):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert "cannot be opened (Permission denied); check the path" in refusal("x.png")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX file names")
def test_a_file_name_that_is_not_text(digits_run, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    PHOTO.save(path)
    ended = classify(path, "--ckpt", digits_run)
    assert "caf?.png" in ended.text and "Traceback" not in ended.text


def seed_files(folder) -> list[bytes]:
    """Return small files that exercise different code paths in the decoders."""
    high_bit_depth = Image.fromarray(np.asarray(PHOTO.convert("L")).astype(np.uint16) * 257)
    palette = PHOTO.quantize(16)
    transparent = PHOTO.convert("RGBA")
    kinds = [
        (palette, "png", {"transparency": 3}),
        (transparent, "png", ANIMATION),
        (high_bit_depth, "png", {}),
        (PHOTO, "jpeg", {"progressive": True}),
        (PHOTO, "webp", ANIMATION),
        (transparent, "webp", {"lossless": True}),
        (PHOTO, "gif", ANIMATION),
        (PHOTO, "tiff", {"compression": "tiff_lzw"}),
        (PHOTO, "tiff", {"compression": "jpeg"}),
        (PHOTO.convert("F"), "tiff", ANIMATION),
    ]
    files = []
    for image, kind, options in kinds:
        image.save(folder / "seed", format=kind, **options)
        files.append((folder / "seed").read_bytes())
    return files


def mutate(original: bytes, chance: random.Random) -> bytes:
    data = bytearray(original)
    place = int(len(data) * chance.random() ** 2)  # mostly near the start, where the headers are
    kind = chance.randrange(6)
    if kind == 0:
        del data[place:]
    elif kind == 1:
        data[place:place] = chance.randbytes(40)
    elif kind == 2:
        data[place : place + 4] = b"\xff\xff\xff\x7f"
    else:
        for offset in range(place, min(len(data), place + 64), 16):
            data[offset] ^= 1 << chance.randrange(8)
    correct = data.startswith(b"\x89PNG") and chance.random() < 0.5
    return with_checksums(bytes(data)) if correct else bytes(data)


def fuzz(folder, results) -> None:
    chance = random.Random(0)
    path = folder / "x"
    counts = {"read": 0, "refused": 0}
    originals = seed_files(folder)
    for number in range(2000):
        path.write_bytes(mutate(originals[number % len(originals)], chance))
        try:
            if number % 3:
                read_image(path, 8, 1)
            else:
                read_photo(path, 1000, keep_alpha=True)
            counts["read"] += 1
        except InputError as error:
            assert str(error).startswith(str(path))
            assert "\n" not in str(error)
            counts["refused"] += 1
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    results.put((counts, memory))


def test_2000_mutated_images(tmp_path):
    """Decode the images in a separate process, and check its memory usage and exit code."""
    results = forks.SimpleQueue()
    process = forks.Process(target=fuzz, args=(tmp_path, results))
    process.start()
    process.join(100)
    assert process.exitcode == 0
    counts, memory = results.get()
    assert sum(counts.values()) == 2000
    assert min(counts.values()) > 300
    assert memory < 2**30
