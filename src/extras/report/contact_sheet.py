"""Write the contact sheets for `--show` (network inputs) and `--attention` (attention maps)."""

import io
import math
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from src.data.images import read_photo
from src.errors import InputError, printable
from src.inference.predictor import Predictor, PreparedImage
from src.runs.atomic import write_atomically

COLUMNS = 4  # maximum number of pairs per row
SIDE, GAP, LINE = 224, 12, 20  # pixels: image size, spacing, height of a text line
WIDTH, HEIGHT = 2 * SIDE + 3 * GAP, SIDE + LINE + GAP  # size of a pair with its caption
PIXELATED = 64  # pixels; images up to this size are enlarged without smoothing
INK, PAPER, FRAME = "#1f2933", "#ffffff", "#e08214"

HEAT = ("#000004", "#fcffa4", "#bc3754")  # colors of the lowest, highest and middle value

Result = tuple[dict[str, Any], PreparedImage]  # as yielded by `src.inference.batch.classify`
Pair = tuple[Image.Image, Image.Image, str]  # left image, right image, caption


def write_inputs(path: str, results: list[Result]) -> None:
    """Write the contact sheet of `--show`: each image file next to its network input.

    Args:
        path: PNG file to write.
        results: result row and network input of each image.
    """
    pairs = []
    for row, prepared in results:
        network_input = to_picture(prepared.image)
        from_dataset = "target" in row
        photo = network_input if from_dataset else read_photo(row["path"], 2 * SIDE)
        pairs.append((draw_frame(photo, prepared.box), network_input, _caption(row)))
    write_sheet(path, "image | network input", pairs)


def write_attention(path: str, results: list[Result], predictor: Predictor) -> None:
    """Write the contact sheet of `--attention`: each network input next to its attention rollout.

    See `write_inputs` for `path` and `results`.
    """
    pairs = []
    for row, prepared in results:
        attention = predictor.attention(prepared.image[None])[0]
        overlay = overlay_attention(prepared.image, attention)
        pairs.append((to_picture(prepared.image), overlay, _caption(row)))
    write_sheet(path, "network input | attention", pairs)


def _caption(row: dict[str, Any]) -> str:
    first = row["predictions"][0]
    guess = f"{first['class']}, {first['probability']:.1%}"
    if row.get("answer", first["class"]) != first["class"]:
        guess = f"{row['answer']} ({guess})"
    target = f", target {row['target']}" if "target" in row else ""
    return printable(f"{guess}{target}: {Path(row['path']).name}")


def write_sheet(path: str, title: str, pairs: list[Pair]) -> None:
    """Write a contact sheet: image pairs with captions, up to `COLUMNS` pairs per row.

    Raises:
        InputError: there are no pairs, or the file cannot be written.
    """
    if not pairs:
        raise InputError(f"{path}: nothing to draw because no image could be read; check the files")
    columns = min(COLUMNS, len(pairs))
    header = LINE + GAP
    size = (columns * WIDTH, header + math.ceil(len(pairs) / columns) * HEIGHT)
    sheet = Image.new("RGB", size, PAPER)
    _write(sheet, GAP // 2, title)
    for number, (left, right, caption) in enumerate(pairs):
        tile = Image.new("RGB", (WIDTH, HEIGHT), PAPER)  # cuts off long captions
        for x, picture in ((GAP, left), (2 * GAP + SIDE, right)):
            tile.paste(ImageOps.pad(fit(picture), (SIDE, SIDE), color=PAPER), (x, 0))
        _write(tile, SIDE + 2, caption)
        row, column = divmod(number, columns)
        sheet.paste(tile, (column * WIDTH, header + row * HEIGHT))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    write_atomically(Path(path), file.getvalue())


def _write(picture: Image.Image, y: int, text: str) -> None:
    ImageDraw.Draw(picture).text((GAP, y), text, INK, ImageFont.load_default(14))


def fit(picture: Image.Image) -> Image.Image:
    """Resize an image so that its longer side is `SIDE` pixels."""
    longer = max(picture.size)
    width, height = (max(1, round(side * SIDE / longer)) for side in picture.size)
    smooth = longer > PIXELATED
    resampling = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return picture.resize((width, height), resampling)


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
