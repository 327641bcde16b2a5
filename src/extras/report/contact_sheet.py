"""Write the contact sheets of `--show` and `--attention`: network inputs and attention maps."""

import io
import math
import os
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from src.data.images import read_photo
from src.errors import InputError, printable
from src.inference.predictor import Predictor, PreparedImage
from src.runs.atomic import write_atomically

MAX_IMAGES = 64  # maximum number of images per sheet
MAX_COLUMNS = 4
SIDE, GAP, LINE = 224, 12, 20  # pixels: image size, spacing, height of a text line
PIXELATED = 64  # pixels; images up to this size are enlarged without smoothing
INK, PAPER, FRAME = "#1f2933", "#ffffff", "#e08214"

HEAT = ("#000004", "#fcffa4", "#bc3754")  # colors of the lowest, highest and middle value

Result = tuple[dict[str, Any], PreparedImage]  # as yielded by `src.inference.batch.classify`
Pair = tuple[Image.Image, Image.Image, str]  # left image, right image, caption


def check_path(path: str, flag: str, images: list[str]) -> None:
    """Check that a PNG file can be written to `path` without overwriting one of `images`.

    Raises:
        InputError: `path` cannot be written, or is one of `images`.
    """
    if Path(path).suffix.lower() != ".png":
        raise InputError(f"{flag} {path}: not a PNG file; use a name that ends in .png")
    if not os.path.isdir(Path(path).absolute().parent):
        raise InputError(f"{flag} {path}: its folder does not exist; create it first")
    if os.path.isdir(path):
        raise InputError(f"{flag} {path}: is a folder; use a different name")
    for image in images:
        if os.path.exists(path) and os.path.exists(image) and os.path.samefile(path, image):
            raise InputError(f"{flag} {path}: would overwrite an input image; use a different name")


def write_inputs(path: str, results: list[Result], total: int) -> None:
    """Write the contact sheet of `--show`: each image file next to its network input.

    Args:
        path: PNG file to write.
        results: result row and network input of each image.
        total: number of classified images.
    """
    pairs = []
    for row, prepared in results:
        network_input = to_picture(prepared.image)
        from_dataset = "target" in row
        photo = network_input if from_dataset else read_photo(row["path"], 2 * SIDE)
        pairs.append((draw_frame(photo, prepared.box), network_input, _caption(row)))
    write_sheet(path, ("image", "network input"), pairs, total)


def write_attention(path: str, results: list[Result], total: int, predictor: Predictor) -> None:
    """Write the contact sheet of `--attention`: each network input next to its attention rollout.

    See `write_inputs` for `path`, `results` and `total`.
    """
    pairs = []
    for row, prepared in results:
        attention = predictor.attention(prepared.image[None])[0]
        overlay = overlay_attention(prepared.image, attention)
        pairs.append((to_picture(prepared.image), overlay, _caption(row)))
    write_sheet(path, ("network input", "attention"), pairs, total)


def _caption(row: dict[str, Any]) -> str:
    first = row["predictions"][0]
    guess = f"{first['class']}, {first['probability']:.1%}"
    if row.get("answer", first["class"]) != first["class"]:
        guess = f"{row['answer']} ({guess})"
    target = f", target {row['target']}" if "target" in row else ""
    return f"{Path(row['path']).name}: {guess}{target}"


def write_sheet(path: str, titles: tuple[str, str], pairs: list[Pair], total: int) -> None:
    """Write a contact sheet: image pairs with captions, one to four pairs per row.

    Args:
        path: PNG file to write.
        titles: titles of the left and right columns.
        pairs: image pairs; must not be empty.
        total: number of images; if not all fit on the sheet, print a note.

    Raises:
        InputError: there are no pairs, or the file cannot be written.
    """
    if not pairs:
        raise InputError(f"{path}: nothing to draw because no image could be read; check the files")
    if total > MAX_IMAGES:
        print(f"note: {path} shows the first {len(pairs)} of {total:,} images", file=sys.stderr)
    columns = min(MAX_COLUMNS, max(1, round((len(pairs) / 2) ** 0.5)))
    rows = math.ceil(len(pairs) / columns)
    width, height = 2 * SIDE + 3 * GAP, SIDE + LINE + GAP  # size of a pair with its caption
    header = LINE + GAP
    sheet = Image.new("RGB", (columns * width, header + rows * height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, (left, right, caption) in enumerate(pairs):
        row, column = divmod(number, columns)
        x, y = column * width + GAP, header + row * height
        text = shorten(caption, font, 2 * SIDE + GAP)
        draw.text((x, y + SIDE + 2), text, INK, font)
        for picture, title in zip((left, right), titles, strict=True):
            sheet.paste(ImageOps.pad(fit(picture), (SIDE, SIDE), color=PAPER), (x, y))
            if row == 0:
                draw.text((x, GAP // 2), title, INK, font)
            x += SIDE + GAP
    file = io.BytesIO()
    sheet.save(file, "PNG")
    write_atomically(Path(path), file.getvalue())


def fit(picture: Image.Image) -> Image.Image:
    """Resize an image so that its longer side is `SIDE` pixels."""
    longer = max(picture.size)
    width, height = (max(1, round(side * SIDE / longer)) for side in picture.size)
    smooth = longer > PIXELATED
    resampling = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return picture.resize((width, height), resampling)


def shorten(text: str, font: Any, width: int) -> str:
    """Shorten a text to `width` pixels by cutting off its start; the prediction is at its end."""
    text = printable(text)
    if font.getlength(text) <= width:
        return text
    while font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text


def to_picture(image: Tensor) -> Image.Image:
    """Convert an image, uint8 [C, H, W] with one or three channels, to mode RGB."""
    pixels = image.expand(3, -1, -1).permute(1, 2, 0)
    return Image.fromarray(pixels.contiguous().numpy())


def draw_frame(photo: Image.Image, box: tuple[float, float, float, float] | None) -> Image.Image:
    """Resize a photo with `fit`, and draw a frame around the box if there is one.

    Args:
        photo: image in any mode.
        box: left, top, right and bottom as fractions of the image size.
    """
    photo = fit(photo.convert("RGB"))
    if box:
        left, top, right, bottom = (
            part * side for part, side in zip(box, photo.size * 2, strict=True)
        )
        frame = (left - 4, top - 4, right + 3, bottom + 3)
        ImageDraw.Draw(photo).rectangle(frame, outline=FRAME, width=2)
    return photo


def overlay_attention(image: Tensor, attention: Tensor) -> Image.Image:
    """Overlay an attention map, from black (lowest) to yellow (highest), on the grayscale image.

    Args:
        image: uint8 [C, H, W].
        attention: float32 [S, S].
    """
    picture = fit(to_picture(image)).convert("L").convert("RGB")
    low, high = attention.min(), attention.max()
    levels = 255 * (attention - low) / (high - low).clamp(min=1e-12)
    small = Image.fromarray(levels.byte().numpy())
    heat = ImageOps.colorize(small.resize(picture.size, Image.Resampling.BICUBIC), *HEAT)
    return Image.blend(picture, heat, 0.7)
