"""Write class folders of oblong images, to compare the settings of --data.fit.

    python -m benchmarks.oblong_images wide data/oblong/wide
    python -m benchmarks.oblong_images photo data/oblong/photo
    python train.py --config configs/folder.yaml --data.root data/oblong/wide --data.fit pad

Half of the images are wide, the other half are tall.

- wide: 64x192 and 192x64 pixels. An enlarged CIFAR-10 image is placed at a random position along
  the longer side. Enlarged quarters of images of the other five classes fill the rest.
- photo: 64x48 and 48x64 pixels, the format of most cameras. Each is a random part of an enlarged
  CIFAR-10 image.

Training and validation images are made from disjoint training images of CIFAR-10, and test images
only from its test images.
"""

import argparse
import random
from pathlib import Path

from PIL import Image

from benchmarks.tables import make_parser, positive
from src.errors import InputError, exit_on_input_error

CLASSES = ("airplane", "automobile", "cat", "horse", "ship")
OTHERS = ("bird", "deer", "dog", "frog", "truck")
SIDE = 64  # pixels


def main() -> None:
    options = _parse()
    draw = {"wide": wide, "photo": photo}[options.kind]
    rng = random.Random(0)
    skip = 0
    for split in ("train", "val", "test"):
        source, count = options.source / split.replace("val", "train"), getattr(options, split)
        first = 0 if split == "test" else skip
        others = [path for name in OTHERS for path in sorted((source / name).glob("*"))]
        for name in CLASSES:
            files = sorted((source / name).glob("*"))[first : first + count]
            if len(files) < count or not others:
                raise InputError(f"{source}: too few images; change --source or --{split}")
            folder = options.output / split / name
            folder.mkdir(parents=True)
            for number, file in enumerate(files):
                image = draw(enlarged(file), number % 2 == 0, others, rng)
                image.save(folder / f"{number:04}.png")
        skip += count


def wide(image: Image.Image, is_wide: bool, others: list[Path], rng: random.Random) -> Image.Image:
    canvas = Image.new("RGB", (3 * SIDE, SIDE) if is_wide else (SIDE, 3 * SIDE))
    places = [(x, y) for x in range(0, canvas.width, SIDE) for y in range(0, canvas.height, SIDE)]
    for place in places:
        left, top = rng.choice((0, SIDE // 2)), rng.choice((0, SIDE // 2))
        quarter = enlarged(rng.choice(others)).crop((left, top, left + SIDE // 2, top + SIDE // 2))
        canvas.paste(quarter.resize((SIDE, SIDE), Image.Resampling.BICUBIC), place)
    place = rng.randint(0, 2 * SIDE)
    canvas.paste(image, (place, 0) if is_wide else (0, place))
    return canvas


def photo(image: Image.Image, is_wide: bool, others: list[Path], rng: random.Random) -> Image.Image:
    shorter = SIDE * 3 // 4
    place = rng.randint(0, SIDE - shorter)
    return image.crop(
        (0, place, SIDE, place + shorter) if is_wide else (place, 0, place + shorter, SIDE)
    )


def enlarged(file: Path) -> Image.Image:
    return Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("kind", choices=("wide", "photo"))
    parser.add_argument("output", type=Path, help="folder to write; must not exist")
    parser.add_argument("--source", type=Path, default=Path("data/cifar10"), help="class folders")
    for split, count in (("train", 300), ("val", 100), ("test", 200)):
        parser.add_argument(f"--{split}", type=positive, default=count, help="images per class")
    options = parser.parse_args()
    if options.output.exists():
        raise InputError(f"{options.output}: already exists; remove it, or choose another folder")
    return options


if __name__ == "__main__":
    with exit_on_input_error():
        main()
