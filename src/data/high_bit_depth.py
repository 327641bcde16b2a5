"""Convert images with more than 8 bits per channel to 8 bits, using their declared range."""

import struct
from typing import Any

import numpy as np
from PIL import Image

from src.errors import InputError

MAX_SAMPLE_VALUE, MAX_SAMPLE_VALUE_OF_TYPE = 281, 341  # TIFF tags
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
OVERSHOOT = 0.1  # tolerance beyond 0 and 1, because sharpening and resampling overshoot


def has_high_bit_depth(image: Image.Image) -> bool:
    """Return whether an image has floating-point values or integers of more than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Decode an image to mode F with values from 0 to 255, or to RGBA if it is transparent.

    16-bit values are divided by the maximum declared in a TIFF tag or a PNG sBIT chunk, or by 65535
    if there is none, regardless of the brightest pixel. Floating-point values must range from
    0 to 1 or from 0 to 255.

    Raises:
        InputError: the range is unknown; the message does not include the path.
    """
    maximum = _declared_maximum(image)
    transparent = image.info.get("transparency")
    values = np.array(image, dtype=np.float32)
    np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    if maximum is None:
        maximum = _float_maximum(values) if image.mode == "F" else 65535
    if 0 < maximum < 65535 and image.mode != "F" and values.max() > maximum:
        maximum = 65535  # scaled to the full range, as the PNG standard requires
    scaled = (values * (255 / maximum)).clip(0, 255)
    if _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO:
        scaled = 255 - scaled
    if not isinstance(transparent, int):
        return Image.fromarray(scaled)
    gray = Image.fromarray(scaled.round().astype(np.uint8))
    alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
    return Image.merge("RGBA", (gray, gray, gray, alpha))


def _declared_maximum(image: Image.Image) -> float | None:
    """Return the maximum declared in the file, or None if the format does not need one."""
    for tag in (MAX_SAMPLE_VALUE_OF_TYPE, MAX_SAMPLE_VALUE):
        value = _tag(image, tag)
        if isinstance(value, int | float) and value > 0:
            return float(value)
    if image.format == "PNG" and (bits := _significant_bits(image)):
        return 2.0**bits - 1
    if image.format == "TIFF" and image.mode == "I":
        raise InputError(
            "has 32-bit integers without a declared maximum; save it with 8 or 16 bits"
        )
    return None


def _float_maximum(values: np.ndarray) -> float:
    low, high = float(values.min()), float(values.max())
    if low >= -OVERSHOOT and high <= 1 + OVERSHOOT:
        return 1.0
    if low >= 0 and high <= 255:
        return 255.0
    raise InputError(
        f"has floating-point values from {low:g} to {high:g}; save it with values from 0 to 1"
    )


def _tag(image: Image.Image, number: int) -> Any:
    """Return the first value of a TIFF tag, or None if the file does not have the tag."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) and value else value


def _significant_bits(image: Image.Image) -> int | None:
    """Return the number of significant bits in the sBIT chunk of a PNG, which Pillow ignores."""
    file: Any = image.fp  # type: ignore[attr-defined]
    position = file.tell()
    file.seek(8)  # skip the signature
    bits = None
    for _ in range(64):  # maximum number of chunks to read
        header = file.read(8)
        if len(header) < 8:
            break
        length, kind = struct.unpack(">I4s", header)
        if kind == b"sBIT":
            bits = (file.read(1) or b"\0")[0]
        if kind in (b"sBIT", b"IDAT", b"IEND"):
            break
        file.seek(length + 4, 1)
    file.seek(position)
    return bits if bits and bits <= 16 else None
