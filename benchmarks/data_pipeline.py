"""Compare the augmentation of whole batches with a tutorial's, image by image, on one CPU core.

    python -m benchmarks.data_pipeline --root data            a minute

Both flip, crop and resize, rotate, apply an automatic policy, normalize, and cut into patches; this
project erases as well. Prints images per second, medians of interleaved rounds.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from benchmarks.interleaved import Timed, interleave
from benchmarks.tables import Rows, make_parser, positive, table
from src.errors import exit_on_input_error
from src.transforms.augment import Augment, Augmentation
from src.transforms.patchify import Patchify

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
PATCH_SIZE = 4
COMMON: dict[str, Any] = {"flip": True, "resized_crop": 0.08, "rotate": 15, "erase": 0.25}
TUTORIAL = "PIL, one image at a time"
Pictures = list[Image.Image]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--root", type=Path, default="data", help="folder of cifar10/train")
    parser.add_argument("--images", type=positive, default=2000, help="images per round")
    parser.add_argument("--batch_size", type=positive, default=512)
    parser.add_argument("--rounds", type=positive, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures = read_pictures(options.root, options.images)
    randaugment = Augmentation(policy="randaugment", policy_ops=2, **COMMON)
    trivialaugment = Augmentation(policy="trivialaugment", **COMMON)
    size = options.batch_size
    pipelines = {
        TUTORIAL: tutorial(pictures),
        "this project, RandAugment": ours(pictures, size, randaugment),
        "this project, TrivialAugment": ours(pictures, size, trivialaugment),
    }
    turns = {name: Timed(run) for name, run in pipelines.items()}
    medians = {
        name: statistics.median(times) for name, times in interleave(turns, options.rounds).items()
    }
    rows: Rows = {}
    for name, seconds in medians.items():
        rows[name] = {"images/s": len(pictures) / seconds, "ratio": medians[TUTORIAL] / seconds}
    print(f"{len(pictures)} images of 3x32x32, batches of {size}, torch {torch.__version__}\n")
    print(table(rows, ("images/s", "ratio")))


def read_pictures(root: Path, count: int) -> Pictures:
    """Return RGB pictures of 32x32, evenly from all classes; random ones if there are none."""
    train = root / "cifar10" / "train"
    classes = sorted(path for path in train.glob("*") if path.is_dir())
    files: list[Path] = []
    for folder in classes:
        files += sorted(folder.glob("*.webp"))[: -(-count // len(classes))]
    if files:
        return [Image.open(file).convert("RGB") for file in files[:count]]
    print(f"{train} has no images; using random ones")
    noise = np.random.default_rng(0).integers(256, size=(count, 32, 32, 3), dtype=np.uint8)
    return [Image.fromarray(image) for image in noise]


def to_tensor(pictures: Pictures) -> Tensor:
    """Return uint8 [N, C, H, W]."""
    images = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def tutorial(pictures: Pictures) -> Callable[[], None]:
    pipeline = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomResizedCrop(32),
            transforms.RandomRotation(15),
            transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
            _patches,
        ]
    )

    def run() -> None:
        torch.manual_seed(0)
        torch.stack([pipeline(picture) for picture in pictures])

    return run


def _patches(image: Tensor) -> Tensor:
    """[C, H, W] -> [N, P*P*C]"""
    P = PATCH_SIZE
    patches = image.unfold(1, P, P).unfold(2, P, P)  # [C, H/P, W/P, P, P]
    return patches.permute(1, 2, 3, 4, 0).reshape(-1, P * P * image.shape[0])


def ours(pictures: Pictures, batch_size: int, settings: Augmentation) -> Callable[[], None]:
    images = to_tensor(pictures)
    augment, patchify = Augment(settings, MEAN, STD), Patchify(PATCH_SIZE)

    def run() -> None:
        generator = torch.Generator().manual_seed(0)
        for batch in images.split(batch_size):
            patchify(augment(batch, generator))

    return run


if __name__ == "__main__":
    with exit_on_input_error():
        main()
