"""Decode untrusted image files. Every problem with a file raises an InputError."""

import contextlib
import os
import stat
import statistics
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from src.config import Fit
from src.data.high_bit_depth import has_high_bit_depth, scale_to_8_bits
from src.errors import InputError

EXTENSIONS = tuple(
    """
    .png .apng .jpg .jpeg .jpe .jfif .mpo .webp .gif .bmp .dib .tif .tiff .pbm .pgm .ppm .pnm
    """.split()
)
UNSUPPORTED = (".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".dng", ".cr2", ".nef", ".arw")
# Pillow supports many more formats, but every decoder is a security risk.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM")
UPRIGHT = {  # EXIF orientation -> operation that undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAX_BYTES = 128 * 2**20
MAX_MEMORY = 448 * 2**20  # bytes while decoding; enough for a page scanned at 600 dpi
MEMORY = {"JPEG": 7, "MPO": 7, "WEBP": 20}  # bytes per pixel, measured in the worst case
OTHER_MEMORY = 12

_decoders = threading.Lock()


def read_image(path: str | Path, image_size: int, channels: int, fit: Fit = "crop") -> Tensor:
    """Decode an image file, turn it upright and resize it to a square.

    Training and `classify.py` both use this function, so that images are preprocessed in the same
    way. Transparent areas become white, images with more than 8 bits per channel are scaled to 8
    bits, and only the first frame of an animation is read.

    Args:
        path: image file.
        image_size: side length of the result in pixels.
        channels: 3 for color, 1 for grayscale.
        fit: `crop` keeps the center square. `pad` keeps the whole image and its proportions, and
            repeats the pixels at its edges. `stretch` keeps the whole image and distorts it.

    Returns:
        uint8 [channels, image_size, image_size].

    Raises:
        InputError: the file is missing, not a regular file, too large, damaged or not an image; the
            message starts with the path.
    """
    with _opened(path) as image:
        mode = "RGB" if channels == 3 else "L"
        image.draft(mode, (2 * image_size, 2 * image_size))  # decode JPEGs at a reduced size
        pixels = np.atleast_3d(np.array(_resize(image, image_size, fit).convert(mode)))
    if fit == "pad":
        missing = [image_size - length for length in pixels.shape[:2]]
        margins = [(length // 2, length - length // 2) for length in missing]
        pixels = np.pad(pixels, [*margins, (0, 0)], mode="edge")
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def describe_cropping(paths: Sequence[str]) -> str:
    """Return a note if cropping to the center square removes more than a quarter, or "".

    The average is over at most 200 images, which are not decoded.
    """
    fractions = []
    for path in paths[:: len(paths) // 200 + 1]:
        with contextlib.suppress(InputError), _opened(path) as image:
            fractions.append(1 - min(image.size) / max(image.size))
    if not fractions or (area := statistics.fmean(fractions)) <= 0.25:
        return ""
    return (
        f"cropping to the center square cuts off {area:.0%} of an average image; --data.fit "
        "pad or stretch keeps all of it"
    )


def read_photo(path: str | Path, side: int, keep_alpha: bool = False) -> Image.Image:
    """Decode a photo without cropping, turn it upright and limit its size.

    Args:
        path: image file.
        side: maximum length of the longer side in pixels.
        keep_alpha: return images with transparency as RGBA instead of blending them with white.

    Returns:
        An image of mode L, RGB or, with `keep_alpha`, RGBA.

    Raises:
        InputError: the file cannot be read; see `read_image`.
    """
    with _opened(path) as image:
        image.draft(None, (side, side))
        decoded = _decode(image)
        if (factor := side / max(decoded.size)) < 1:
            width, height = (max(1, round(length * factor)) for length in decoded.size)
            decoded = decoded.resize((width, height), Image.Resampling.BOX)
        return _turn_upright(_to_8_bits(decoded, keep_alpha), image)


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file without blocking on a pipe or device."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: the path contains a NUL byte
        reason = getattr(error, "strerror", "not a valid path")
        raise InputError(
            f"{path}: cannot be opened ({reason}); check the path and its permissions"
        ) from None
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise InputError(
        f"{path}: must be a regular file of at most {MAX_BYTES >> 20} MiB; pass a different image"
    )


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """Open an image for decoding within the block; convert all errors to InputError."""
    with _decoders:  # Pillow's initialization of its decoders is not thread-safe
        Image.init()
    with open_regular(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata; real problems raise errors
        try:
            with Image.open(file, formats=FORMATS) as image:
                _refuse_bomb(image)
                yield image
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except Exception as error:  # OSError, SyntaxError, ValueError, MemoryError, ...
            raise InputError(f"{path}: {_explain(path, error)}") from None


def _explain(path: str | Path, error: Exception) -> str:
    """Return why Pillow cannot read a file, and what the user can do."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Image.UnidentifiedImageError):
        if (ending := Path(path).suffix.lower()) in UNSUPPORTED:
            return (
                f"{ending} images are not supported; convert it to JPEG, for example with "
                "ImageMagick: magick IMAGE photo.jpg"
            )
        reason = "not an image in a supported format (PNG, JPEG, WebP, GIF, BMP, TIFF, PPM)"
    return f"cannot be read as an image: {reason}; convert, replace or remove it"


def _refuse_bomb(image: Image.Image) -> None:
    """Reject decompression bombs (more pixels than fit into MAX_MEMORY) before decoding."""
    width, height = image.size
    limit = MAX_MEMORY // MEMORY.get(image.format or "", OTHER_MEMORY)
    if width * height > limit:
        raise InputError(
            f"has {width}x{height} pixels, but the limit for {image.format} is {limit:,}; "
            "use a smaller image"
        )


def _resize(image: Image.Image, size: int, fit: Fit) -> Image.Image:
    """Crop and resize before most other steps, to save time and memory."""
    decoded = _decode(image)
    width, height = decoded.size
    target, box = (size, size), None
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    elif fit == "pad":
        scale = size / max(width, height)
        target = (max(1, round(width * scale)), max(1, round(height * scale)))
    if decoded.size != target:
        decoded = decoded.resize(target, Image.Resampling.BICUBIC, box=box)
    return _turn_upright(_to_8_bits(decoded), image)


def _decode(image: Image.Image) -> Image.Image:
    """Decode to a resizable mode: L, RGB, RGBA, or F (0 to 255) for more than 8 bits."""
    if getattr(image, "default_image", False):
        image.seek(1)  # skip the fallback image of an animated PNG
    if has_high_bit_depth(image):
        return scale_to_8_bits(image)
    if image.has_transparency_data:
        return image.convert("RGBA")
    image.load()
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _to_8_bits(image: Image.Image, keep_alpha: bool = False) -> Image.Image:
    """Convert to L or RGB, blending transparency with white, or to RGBA with `keep_alpha`."""
    if image.mode == "F":
        return Image.fromarray(np.asarray(image).clip(0, 255).round().astype(np.uint8))
    if image.mode == "RGBA" and not keep_alpha:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image


def _turn_upright(image: Image.Image, opened: Image.Image) -> Image.Image:
    """Apply the EXIF orientation of the opened file, which must already be decoded."""
    # Read after decoding, because Pillow applies and removes the orientation as it decodes a TIFF.
    orientation = opened.getexif().get(ExifTags.Base.Orientation)
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image
