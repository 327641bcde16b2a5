"""A picture of what an augmentation does to CIFAR-10: 64 training images, or one image 64 times.

    python -m benchmarks.augmentation_picture --output augmented.png
    python -m benchmarks.augmentation_picture --output augmented.png --same --policy trivialaugment

Images that lie under a crop, a rotation, RandAugment or an eraser should still show a person what they are;
TrivialAugment, which moves some of them wholly out of sight, does not keep to that.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.data_pipeline import read_pictures
from src.errors import InputError, exit_on_input_error
from src.transforms.augment import Augment, Augmentation

SIDE = 8  # images along each edge of the picture
MAGNIFY = 3  # screen pixels a pixel


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("data"),
        help="folder that has cifar10/train/<class>/*.webp",
    )
    parser.add_argument("--output", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--policy", choices=("none", "randaugment", "trivialaugment"), default="randaugment"
    )
    parser.add_argument("--magnitude", type=int, default=9, help="of RandAugment, 0 to 30")
    parser.add_argument("--resized_crop", type=float, default=0.3, help="least area of the crop")
    parser.add_argument("--rotate", type=float, default=15, help="degrees")
    parser.add_argument("--erase", type=float, default=0.25, help="probability")
    parser.add_argument("--same", action="store_true", help="the same image in all places")
    args = parser.parse_args()

    if args.output.suffix != ".png" or not args.output.parent.is_dir():
        raise InputError(f"--output {args.output}: name a .png file in a folder that exists")
    if not (args.root / "cifar10" / "train").is_dir():
        raise InputError(
            f"--root {args.root}: there is no {args.root}/cifar10/train/<class>/ to take images from"
        )
    pictures = read_pictures(args.root, SIDE * SIDE)
    images = torch.stack(
        [torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures]
    )
    if args.same:
        images = images[:1].expand_as(images)
    settings = Augmentation(
        flip=True,
        resized_crop=args.resized_crop,
        rotate=args.rotate,
        policy=args.policy,
        policy_magnitude=args.magnitude,
        erase=args.erase,
    )
    augment = Augment(
        settings, mean=[0.0] * 3, std=[1.0] * 3
    )  # so that the values stay within 0 to 1
    augmented = augment(images, torch.Generator().manual_seed(args.seed))
    Image.fromarray(grid(augmented)).save(args.output)
    print(f"{args.output}: {SIDE * SIDE} images with {settings}")


def grid(images: torch.Tensor) -> np.ndarray:
    """float [SIDE * SIDE, 3, H, W] of 0 to 1 -> uint8 [height, width, 3], magnified, with white lines between."""
    pixels = (images * 255).round().clamp(0, 255).to(torch.uint8)
    pixels = pixels.repeat_interleave(MAGNIFY, 2).repeat_interleave(MAGNIFY, 3)
    pixels = torch.nn.functional.pad(pixels, (2, 2, 2, 2), value=255)
    _, C, H, W = pixels.shape
    return (
        pixels.view(SIDE, SIDE, C, H, W)
        .permute(0, 3, 1, 4, 2)
        .reshape(SIDE * H, SIDE * W, C)
        .numpy()
    )


if __name__ == "__main__":
    with exit_on_input_error():
        main()
