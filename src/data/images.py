"""Decode one untrusted image file. Everything that can be wrong with it is an InputError."""

import contextlib
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from src.data.deep_images import is_deep, scale_to_8_bits
from src.errors import InputError

EXTENSIONS = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".pgm",
    ".ppm",
)
UNSUPPORTED = (".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".dng", ".cr2", ".nef", ".arw")
# Pillow knows many more formats, and each decoder is a risk.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM")
UPRIGHT = {  # the transposition that undoes each EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAX_BYTES = 128 * 2**20
MAX_MEMORY = 448 * 2**20  # while decoding: enough for a sheet of paper at 600 dpi
MEMORY = {"JPEG": 7, "MPO": 7, "WEBP": 20}  # bytes per pixel in the worst case, measured
OTHER_MEMORY = 12

_decoders = threading.Lock()


def read_image(path: str | Path, image_size: int, channels: int) -> Tensor:
    """Decode a file, turn it upright, crop the center square and resize it.

    Training and `classify.py` both read files with this function, so that a photo is seen as in
    validation. Transparent parts become white, deeper images are scaled to 8 bits, and of an
    animation the first frame is read.

    Returns:
        uint8 [channels, image_size, image_size].

    Raises:
        InputError: the file is missing, not a regular file, too large, damaged or not an image;
            names the file.
    """
    with _opened(path) as image:
        return _square(image, image_size, channels)


def read_photo(path: str | Path, side: int, keep_alpha: bool = False) -> Image.Image:
    """Decode a whole photo and turn it upright, its longer side at most `side` pixels.

    Args:
        path: image file.
        side: upper limit of the longer side.
        keep_alpha: return a picture with transparency as RGBA, instead of on white.

    Returns:
        An image of mode L, RGB or, with `keep_alpha`, RGBA.

    Raises:
        InputError: as `read_image`.
    """
    with _opened(path) as image:
        return _whole(image, side, keep_alpha)


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """Open an image to be decoded in the block; whatever goes wrong there is an InputError."""
    with _decoders:  # Pillow's loading of its decoders is not thread-safe
        Image.init()
    try:
        with _open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters raises
            with Image.open(file, formats=FORMATS) as image:
                _refuse_bomb(path, image)
                yield image
    except InputError as error:
        if str(error).startswith(str(path)):
            raise
        raise InputError(f"{path}: {error}") from None
    except MemoryError:
        raise InputError(f"{path}: too large for the free memory; make it smaller") from None
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "not an image in a supported format (PNG, JPEG, WebP, GIF, BMP, TIFF, PPM)"
            if (ending := Path(path).suffix.lower()) in UNSUPPORTED:
                kind = ending.removeprefix(".").upper()
                raise InputError(
                    f"{path}: {kind} images are not supported; convert it to JPEG, for example "
                    "with ImageMagick: magick IMAGE photo.jpg"
                ) from None
        raise InputError(
            f"{path}: cannot be read as an image: {reason}; replace or remove it"
        ) from None


def _open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file, without ever blocking on a pipe or device."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = getattr(error, "strerror", "not a valid path")
        raise InputError(
            f"{path}: cannot be opened ({reason}); check the path and its permissions"
        ) from None
    if problem := _problem(path, os.fstat(descriptor)):
        os.close(descriptor)
        raise InputError(f"{path}: {problem}")
    return os.fdopen(descriptor, "rb")


def _problem(path: str | Path, status: os.stat_result) -> str | None:
    """Return why this cannot be an image file."""
    if stat.S_ISDIR(status.st_mode):
        return f"is a directory; name image files, for example {path}/*.png"
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file; name an image file"
    if status.st_size == 0:
        return "is empty (zero bytes); replace or remove it"
    if status.st_size > MAX_BYTES:
        mib = status.st_size / 2**20
        return f"has {mib:.0f} MiB, the limit is {MAX_BYTES >> 20} MiB; make it smaller"
    return None


def _refuse_bomb(path: str | Path, image: Image.Image) -> None:
    """Refuse, before decoding, more pixels than fit into MAX_MEMORY: a decompression bomb."""
    width, height = image.size
    limit = MAX_MEMORY // MEMORY.get(image.format or "", OTHER_MEMORY)
    if width * height > limit:
        raise InputError(
            f"{path}: declares {width}x{height} pixels, the limit for {image.format} is {limit:,}; "
            "make it smaller"
        )


def _square(image: Image.Image, size: int, channels: int) -> Tensor:
    """Crop and resize first: the memory is then that of decoding, and the rest costs nothing."""
    mode = "RGB" if channels == 3 else "L"
    image.draft(mode, (2 * size, 2 * size))  # decodes a JPEG at a fraction of its size
    decoded = _decode(image)
    width, height = decoded.size
    if (width, height) != (size, size):
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        decoded = decoded.resize((size, size), Image.Resampling.BICUBIC, box=box)
    upright = _turn_upright(_to_8_bits(decoded), image)
    pixels = torch.from_numpy(np.array(upright.convert(mode)))
    return pixels.permute(2, 0, 1).contiguous() if channels == 3 else pixels[None]


def _whole(image: Image.Image, side: int, keep_alpha: bool) -> Image.Image:
    image.draft(None, (side, side))
    decoded = _decode(image)
    if (factor := side / max(decoded.size)) < 1:
        width, height = (max(1, round(length * factor)) for length in decoded.size)
        decoded = decoded.resize((width, height), Image.Resampling.BOX)
    return _turn_upright(_to_8_bits(decoded, keep_alpha), image)


def _decode(image: Image.Image) -> Image.Image:
    """Decode to a mode that can be resized: L, RGB, RGBA, or F from 0 to 255 for deep images."""
    if getattr(image, "default_image", False):
        image.seek(1)  # what an animated PNG shows first: its first frame is for old programs
    if is_deep(image):
        return scale_to_8_bits(image)
    if image.has_transparency_data:
        return image.convert("RGBA")
    image.load()
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _to_8_bits(image: Image.Image, keep_alpha: bool = False) -> Image.Image:
    """Return the image in mode L or RGB, on white if it is transparent, or RGBA if that is kept."""
    if image.mode == "F":
        return Image.fromarray(np.asarray(image).clip(0, 255).round().astype(np.uint8))
    if image.mode == "RGBA" and not keep_alpha:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image


def _turn_upright(image: Image.Image, opened: Image.Image) -> Image.Image:
    """Turn the image as the EXIF data of the opened file says, which has to be decoded by now."""
    orientation = opened.getexif().get(ExifTags.Base.Orientation)  # decoding a TIFF turns it
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image
