"""Pictures of what the network was given, and of where it looked, for `--show` and `--attention`. Pillow alone."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from src.data.images import read_photo
from src.errors import InputError, printable
from src.inference.predictor import Given, Predictor
from src.runs.atomic import write_atomically

MOST = 64  # images on one sheet: more could not be looked at
SIDE, GAP, LINE = 224, 12, 20  # pixels: of a picture, between pictures, of a line of text
INK, PAPER, FRAME = "#1f2933", "#ffffff", "#e08214"
HEAT = np.array(
    [(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)]
)  # matplotlib's inferno


def check_path(path: str, flag: str, images: list[str]) -> None:
    """Raises InputError, before anything is classified, if no picture can be written there, or none should be."""
    place = Path(path)
    if place.suffix.lower() != ".png":
        raise InputError(
            f"{flag} {path}: pictures are written as PNG; name a file that ends in .png"
        )
    if not os.path.isdir(place.absolute().parent):
        raise InputError(f"{flag} {path}: its folder is not there; make it first")
    if os.path.isdir(path) or (
        os.path.exists(path) and any(_same_file(path, image) for image in images)
    ):
        what = "a folder" if os.path.isdir(path) else "an image to classify"
        raise InputError(f"{flag} {path}: would replace {what}; name another")


def _same_file(path: str, image: str) -> bool:
    return os.path.exists(image) and os.path.samefile(path, image)


def write_given(path: str, results: list[tuple[dict, Given]], total: int) -> None:
    """For `--show`: each file beside what the network was given of it, with the answer."""
    pairs = []
    for row, given in results:
        photo = picture_of(given.image) if "target" in row else read_photo(row["path"], 2 * SIDE)
        pairs.append((framed(photo, given.box), picture_of(given.image), _caption(row)))
    write_sheet(path, ("the image", "what the network was given"), pairs, total)


def write_attention(
    path: str, results: list[tuple[dict, Given]], total: int, predictor: Predictor
) -> None:
    """For `--attention`: what the network was given beside where it looked, with the answer."""
    maps = (
        predictor.attention(torch.stack([given.image for _, given in results])) if results else []
    )
    pairs = [
        (picture_of(given.image), heated(given.image, attention), _caption(row))
        for (row, given), attention in zip(results, maps, strict=True)
    ]
    write_sheet(path, ("what the network was given", "where it looked"), pairs, total)


def _caption(row: dict) -> str:
    first = row["predictions"][0]
    target = f", target {row['target']}" if "target" in row else ""
    return f"{Path(row['path']).name}: {first['class']}, {first['probability']:.1%}{target}"


def write_sheet(
    path: str,
    titles: tuple[str, str],
    pairs: list[tuple[Image.Image, Image.Image, str]],
    total: int,
) -> None:
    """Pairs of pictures side by side, each over its caption, in rows of one to four pairs."""
    if not pairs:
        raise InputError(f"{path}: there is nothing to draw: no image could be read")
    if total > MOST:
        print(f"note: {path} shows the first {len(pairs)} of {total:,} images", file=sys.stderr)
    columns = min(4, max(1, round((len(pairs) / 2) ** 0.5)))
    rows = -(-len(pairs) // columns)
    width, height = 2 * SIDE + 3 * GAP, SIDE + LINE + GAP
    sheet = Image.new("RGB", (columns * width, LINE + GAP + rows * height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column in range(columns):
        for half, title in enumerate(titles):
            draw.text((column * width + GAP + half * (SIDE + GAP), GAP // 2), title, INK, font)
    for number, (left, right, caption) in enumerate(pairs):
        x, y = number % columns * width + GAP, LINE + GAP + number // columns * height
        for half, picture in enumerate((left, right)):
            picture = fitted(picture)
            place = ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2)
            sheet.paste(picture, (x + half * (SIDE + GAP) + place[0], y + place[1]))
        draw.text((x, y + SIDE + 2), shortened(caption, font, 2 * SIDE + GAP), INK, font)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    write_atomically(Path(path), file.getvalue())


def fitted(picture: Image.Image) -> Image.Image:
    """Its longer side SIDE pixels; small images keep their pixels to be seen."""
    factor = SIDE / max(picture.size)
    size = [max(1, round(side * factor)) for side in picture.size]
    return picture.resize(
        size, Image.Resampling.NEAREST if max(picture.size) <= 64 else Image.Resampling.LANCZOS
    )


def shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The end of the text, which says most, where all of it does not fit; without what the font cannot show."""
    text = printable(text)
    if font.getlength(text) <= width:
        return text
    while font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text


def picture_of(image: Tensor) -> Image.Image:
    """uint8 [C, H, W] -> an image of mode RGB"""
    return Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())


def framed(photo: Image.Image, box: tuple[float, float, float, float] | None) -> Image.Image:
    """The photo with a frame around what was found in it."""
    photo = fitted(photo.convert("RGB"))
    if box:
        left, top, right, bottom = (
            part * side for part, side in zip(box, photo.size * 2, strict=True)
        )
        ImageDraw.Draw(photo).rectangle(
            [left - 4, top - 4, right + 3, bottom + 3], outline=FRAME, width=2
        )
    return photo


def heated(image: Tensor, attention: Tensor) -> Image.Image:
    """uint8 [C, H, W] under its attention [S, S]: from black, least, through red to light yellow, most."""
    gray = fitted(picture_of(image)).convert("L")
    low, high = attention.min(), attention.max()
    level = Image.fromarray(
        ((attention - low) / (high - low).clamp(min=1e-12) * 255).to(torch.uint8).numpy()
    )
    level = np.asarray(level.resize(gray.size, Image.Resampling.BICUBIC)) / 255
    places = np.linspace(0, 1, len(HEAT))
    heat = np.stack([np.interp(level, places, channel) for channel in HEAT.T], axis=-1)
    mixed = 0.7 * heat + 0.3 * np.asarray(gray)[..., None]
    return Image.fromarray(mixed.round().astype(np.uint8))
