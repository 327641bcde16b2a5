"""Augmentation of CIFAR-10 images on one CPU core: a tutorial's pipeline of one image at a time, and ours of a batch.

    python -m benchmarks.data_pipeline --root data

Both flip, crop and resize, rotate, apply an automatic policy, normalize, and cut into patches; ours erases, too.
The two take turns, so that whatever else the machine does disturbs them alike; each one's median round counts.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from benchmarks.training import positive
from src.errors import exit_on_input_error
from src.transforms.augment import Augment, Augmentation
from src.transforms.patchify import Patchify

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
PATCH_SIZE = 4


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
    parser.add_argument(
        "--images", type=positive, default=2000, help="images to augment in each round"
    )
    parser.add_argument("--batch_size", type=positive, default=512)
    parser.add_argument("--rounds", type=positive, default=5)
    args = parser.parse_args()

    torch.set_num_threads(1)
    pictures = read_pictures(args.root, args.images)
    pipelines = {
        "tutorial: PIL, one image at a time": tutorial(pictures),
        "ours: RandAugment, one batch": ours(
            pictures, args.batch_size, policy="randaugment", policy_ops=2
        ),
        "ours: TrivialAugment, one batch": ours(pictures, args.batch_size, policy="trivialaugment"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in pipelines}
    for run in pipelines.values():  # the first round is not counted
        run()
    for _ in range(args.rounds):
        for name, run in pipelines.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)

    print(
        f"{len(pictures)} images of 3x32x32, batches of {args.batch_size}, one thread, torch {torch.__version__}"
    )
    print(f"{'':36}{'images/s':>10}{'ratio':>8}")
    slowest = statistics.median(next(iter(seconds.values())))
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:36}{len(pictures) / median:>10,.0f}{slowest / median:>8.1f}")


def read_pictures(root: Path, count: int) -> list[Image.Image]:
    """RGB pictures of 32x32, from all classes alike; random ones, saying so, where there are none to read."""
    classes = sorted(path for path in (root / "cifar10" / "train").glob("*") if path.is_dir())
    files = [
        file
        for folder in classes
        for file in sorted(folder.glob("*.webp"))[: -(-count // len(classes))]
    ]
    if not files:
        print(f"no images in {root / 'cifar10' / 'train'}: using random ones")
        noise = np.random.default_rng(0).integers(256, size=(count, 32, 32, 3), dtype=np.uint8)
        return [Image.fromarray(image) for image in noise]
    return [Image.open(file).convert("RGB") for file in files[:count]]


def tutorial(pictures: list[Image.Image]) -> Callable[[], None]:
    pipeline = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomResizedCrop(32),
            transforms.RandomRotation(15),
            transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
            tutorial_patches,
        ]
    )

    def run() -> None:
        torch.manual_seed(0)
        torch.stack([pipeline(picture) for picture in pictures])

    return run


def tutorial_patches(image: torch.Tensor) -> torch.Tensor:
    """[C, H, W] -> [N, P*P*C]"""
    P = PATCH_SIZE
    patches = image.unfold(1, P, P).unfold(2, P, P)  # [C, H/P, W/P, P, P]
    return patches.permute(1, 2, 3, 4, 0).reshape(-1, P * P * image.shape[0])


def ours(pictures: list[Image.Image], batch_size: int, **policy) -> Callable[[], None]:
    images = torch.stack(
        [torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures]
    ).contiguous()
    settings = Augmentation(flip=True, resized_crop=0.08, rotate=15, erase=0.25, **policy)
    augment, patchify = Augment(settings, MEAN, STD), Patchify(PATCH_SIZE)

    def run() -> None:
        generator = torch.Generator().manual_seed(0)
        for batch in images.split(batch_size):
            patchify(augment(batch, generator))

    return run


if __name__ == "__main__":
    with exit_on_input_error():
        main()
