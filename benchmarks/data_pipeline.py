"""Compare batched augmentation with a tutorial's per-image pipeline on one CPU core.

    python -m benchmarks.data_pipeline            takes a minute

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

from benchmarks.interleaved import Timed, header, interleave, timing_parser
from benchmarks.tables import Rows, positive, table
from src.data.datasets import DATASETS
from src.data.splits import open_split
from src.errors import exit_on_input_error
from src.transforms.augment import Augment, Augmentation
from src.transforms.patchify import Patchify

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
PATCH_SIZE = 4
BATCH = 512
COMMON: dict[str, Any] = {"flip": True, "resized_crop": 0.08, "rotate": 15, "erase": 0.25}
TUTORIAL = "PIL, one image at a time"


def main() -> None:
    parser = timing_parser(__doc__, threads=1)
    parser.add_argument("--root", default="data", help="dataset folder")
    parser.add_argument("--images", type=positive, default=2000, help="images per round")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = read_images(options.root, options.images)
    randaugment = Augmentation(policy="randaugment", policy_ops=2, **COMMON)
    trivialaugment = Augmentation(policy="trivialaugment", **COMMON)
    pipelines = {
        TUTORIAL: tutorial(images),
        "this project, RandAugment": ours(images, randaugment),
        "this project, TrivialAugment": ours(images, trivialaugment),
    }
    turns = {name: Timed(run) for name, run in pipelines.items()}
    medians = {
        name: statistics.median(times) for name, times in interleave(turns, options.rounds).items()
    }
    rows: Rows = {}
    for name, seconds in medians.items():
        rows[name] = {"images/s": len(images) / seconds, "ratio": medians[TUTORIAL] / seconds}
    print(header(), f"{len(images)} images of 3x32x32, batches of {BATCH}", "", sep="\n")
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
    patchify = Patchify(PATCH_SIZE)
    pipeline = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomResizedCrop(32),
            transforms.RandomRotation(15),
            transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
            lambda image: patchify(image[None]),
        ]
    )

    def run() -> None:
        torch.manual_seed(0)
        torch.cat([pipeline(picture) for picture in pictures])

    return run


def ours(images: Tensor, settings: Augmentation) -> Callable[[], None]:
    augment, patchify = Augment(settings, MEAN, STD), Patchify(PATCH_SIZE)

    def run() -> None:
        generator = torch.Generator().manual_seed(0)
        for batch in images.split(BATCH):
            patchify(augment(batch, generator))

    return run


if __name__ == "__main__":
    with exit_on_input_error():
        main()
