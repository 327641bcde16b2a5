"""Compare batched augmentation with a tutorial's per-image pipeline on one CPU core.

    python -m benchmarks.data_pipeline --root data            takes a minute

Both pipelines flip, crop and resize, rotate, apply an augmentation policy, normalize, and cut
images into patches; this project also applies random erasing. Prints median images per second over
interleaved rounds.
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from benchmarks.interleaved import Timed, interleave
from benchmarks.tables import Rows, make_parser, positive, table
from src.data.datasets import DATASETS
from src.data.splits import open_split
from src.errors import exit_on_input_error
from src.transforms.augment import Augment, Augmentation
from src.transforms.patchify import Patchify

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
PATCH_SIZE = 4
COMMON: dict[str, Any] = {"flip": True, "resized_crop": 0.08, "rotate": 15, "erase": 0.25}
TUTORIAL = "PIL, one image at a time"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--root", default="data", help="dataset folder")
    parser.add_argument("--images", type=positive, default=2000, help="images per round")
    parser.add_argument("--batch_size", type=positive, default=512)
    parser.add_argument("--rounds", type=positive, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = read_images(options.root, options.images)
    randaugment = Augmentation(policy="randaugment", policy_ops=2, **COMMON)
    trivialaugment = Augmentation(policy="trivialaugment", **COMMON)
    size = options.batch_size
    pipelines = {
        TUTORIAL: tutorial(images),
        "this project, RandAugment": ours(images, size, randaugment),
        "this project, TrivialAugment": ours(images, size, trivialaugment),
    }
    turns = {name: Timed(run) for name, run in pipelines.items()}
    medians = {
        name: statistics.median(times) for name, times in interleave(turns, options.rounds).items()
    }
    rows: Rows = {}
    for name, seconds in medians.items():
        rows[name] = {"images/s": len(images) / seconds, "ratio": medians[TUTORIAL] / seconds}
    print(f"{len(images)} images of 3x32x32, batches of {size}, torch {torch.__version__}\n")
    print(table(rows, ("images/s", "ratio")))


def read_images(root: str, count: int) -> Tensor:
    """Return random CIFAR-10 training images, uint8 [count, C, H, W]."""
    train = open_split(DATASETS["cifar10"], "train", root=root)
    assert train
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    images, _ = train.__getitems__(order[:count])
    return images


def tutorial(images: Tensor) -> Callable[[], None]:
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
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


def ours(images: Tensor, batch_size: int, settings: Augmentation) -> Callable[[], None]:
    augment, patchify = Augment(settings, MEAN, STD), Patchify(PATCH_SIZE)

    def run() -> None:
        generator = torch.Generator().manual_seed(0)
        for batch in images.split(batch_size):
            patchify(augment(batch, generator))

    return run


if __name__ == "__main__":
    with exit_on_input_error():
        main()
