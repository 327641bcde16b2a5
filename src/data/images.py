"""An image file in; out a square uint8 tensor, or the whole photo. Whatever is wrong with a file is an InputError."""

import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from src.errors import InputError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".pgm", ".ppm")
FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "GIF",
    "BMP",
    "DIB",
    "TIFF",
    "PPM",
)  # Pillow opens many more: each a risk
Image.init()  # load the decoders now: threads that do so at the same time trip over each other
Result = TypeVar("Result")
MAX_BYTES = 128 * 2**20
UPRIGHT = {  # what undoes each EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAX_MEMORY = (
    448 * 2**20
)  # while decoding: enough for a sheet of paper at 600 dpi; more is a decompression bomb
MEMORY = {
    "JPEG": 7,
    "MPO": 7,
    "WEBP": 20,
}  # measured, in bytes a pixel of the costliest kind; others take up to 12


def read_image(path: str | Path, image_size: int, channels: int) -> Tensor:
    """Decode a file, turn it upright, crop the center square and resize it: uint8 [channels, image_size, image_size].

    Transparent parts become white; 16-bit values, and floating-point values that all lie within 0 to 1, are scaled to
    8 bits; of an animation the first frame is taken.
    Training folders and `classify.py` both read through this function, so that a photo is seen as in validation.

    Raises:
        InputError: naming the file, when it is missing, not a regular file, too large, damaged or not an image.
    """
    return _read(path, lambda image: _square(image, image_size, channels))


def read_photo(path: str | Path, side: int) -> Image.Image:
    """Decode a file and turn it upright: the whole photo, of mode L or RGB, its longer side `side` pixels at most.

    Otherwise, and in what it raises, it is as `read_image`.
    """
    return _read(path, lambda image: _whole(image, side))


def _read(path: str | Path, then: Callable[[Image.Image], Result]) -> Result:
    """What `then` makes of the opened image; InputError, naming the file, for whatever is wrong with it."""
    try:
        with _open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters raises
            with Image.open(file, formats=FORMATS) as image:
                _refuse_a_bomb(path, image)
                return then(image)
    except InputError:
        raise
    except MemoryError:
        raise InputError(
            f"{path}: too large to decode in the memory that is free; make it smaller"
        ) from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "not an image in a format we read (PNG, JPEG, WebP, GIF, BMP, TIFF, PPM)"
        raise InputError(
            f"{path}: cannot be read as an image: {reason}; replace or remove it"
        ) from None


def _open_regular(path: str | Path):
    """Open for reading without ever blocking on a pipe or device, and with clear words for what is not a file."""
    try:
        descriptor = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; check the path") from None
    except PermissionError:
        raise InputError(
            f"{path}: no permission to read it; change its permissions, or own it"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}; check the path") from None
    except ValueError:  # a NUL byte in the path
        raise InputError(f"{path!r}: not a valid path; check it") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES or status.st_size == 0:
        os.close(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path}: is a directory; name image files, for example {path}/*.png")
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: not a regular file; name an image file")
        if status.st_size == 0:
            raise InputError(f"{path}: is empty (zero bytes); replace or remove it")
        raise InputError(
            f"{path}: {status.st_size / 2**20:.0f} MiB is more than {MAX_BYTES >> 20} MiB; make it smaller"
        )
    return os.fdopen(descriptor, "rb")


def _refuse_a_bomb(path: str | Path, image: Image.Image) -> None:
    """Raise InputError for more pixels than fit into MAX_MEMORY, before one of them is decoded."""
    width, height = image.size
    if width * height > (most := MAX_MEMORY // MEMORY.get(image.format, 12)):
        limit = f"for {image.format} at most {most:,} are decoded"
        raise InputError(f"{path}: declares {width}x{height} pixels, {limit}; make it smaller")


def _square(image: Image.Image, size: int, channels: int) -> Tensor:
    """Crop and resize first: memory is then that of decoding alone, and what follows costs nothing."""
    image.draft(
        "RGB" if channels == 3 else "L", (2 * size, 2 * size)
    )  # JPEG alone: decode at a fraction of the size
    opened, image = image, _plain(image)
    width, height = image.size
    side = min(width, height)
    if (width, height) != (size, size):
        left, top = (width - side) / 2, (height - side) / 2
        image = image.resize(
            (size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
        )
    pixels = torch.from_numpy(
        np.array(_upright(image, opened).convert("RGB" if channels == 3 else "L"))
    )
    return pixels.permute(2, 0, 1).contiguous() if channels == 3 else pixels[None]


def _whole(image: Image.Image, side: int) -> Image.Image:
    image.draft(None, (side, side))
    opened, image = image, _plain(image)
    if (factor := side / max(image.size)) < 1:
        size = [max(1, round(length * factor)) for length in image.size]
        image = image.resize(size, Image.Resampling.BOX)
    return _upright(image, opened)


def _upright(image: Image.Image, opened: Image.Image) -> Image.Image:
    """Of mode L or RGB, transparent parts white, and turned as the opened file says, once that is decoded."""
    orientation = opened.getexif().get(
        ExifTags.Base.Orientation
    )  # not before it is decoded: TIFFs are turned by that
    if image.mode == "F":
        image = Image.fromarray(np.asarray(image).clip(0, 255).round().astype(np.uint8))
    elif image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _plain(image: Image.Image) -> Image.Image:
    """Decode to a mode that can be resized: L, RGB, RGBA, or F with values from 0 to 255 for more than 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.array(image, dtype=np.float32)
        np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        if image.mode == "F" and values.max() <= 1:
            values *= 255  # by convention, numbers with fractions are brightness from 0 to 1
        elif image.mode != "F" and values.max() > 255:
            values /= 257  # 65535 -> 255
        return Image.fromarray(values.clip(0, 255, out=values))
    if image.has_transparency_data:
        return image.convert("RGBA")
    image.load()
    return (
        image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
    )
