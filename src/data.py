"""The LightningDataModules: reading, the validation split, the training order, and the way to the device.

dataset files -> uint8 images [N, C, H, W] and int64 labels [N], in memory
  -> DataLoader: a whole batch by one tensor index, no per-sample Python
  -> uint8 batch on the device -> augment (training only), normalise, Patchify -> [B, N_patches, P*P*C]
"""

import signal
from pathlib import Path
from typing import Literal

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from src.datasets import DATASETS, read_digits, read_torchvision
from src.errors import InputError
from src.folders import ImageSet, list_classes, read_folder
from src.mixing import mix
from src.randomness import fold_in
from src.transforms import Augment, Augmentation, Patchify, normalize

SMALL_DIGIT_CHANGES = Augmentation(rotate=10, resized_crop=0.7)  # a shift by a whole pixel of eight is too much
DIGIT_CHANGES = Augmentation(shift=2, rotate=10, scale=0.1)
CLOTHES_CHANGES = Augmentation(shift=2, flip=True)
PHOTO_CHANGES = Augmentation(shift=4, flip=True)


def split_indices(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """A seeded, stratified split: int64 labels [N] -> sorted indices to train on, sorted indices to validate on."""
    generator = torch.Generator().manual_seed(seed)
    held_out = []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        order = members[torch.randperm(len(members), generator=generator)]
        held_out.append(order[: min(round(fraction * len(members)), len(members) - 1)])
    if fraction and not any(map(len, held_out)):
        most = int(labels.bincount().max())
        more = f"use {1 / most:.2g} or more, or 0" if most > 1 else "use 0"
        raise InputError(f"data.val_fraction {fraction}: holds out not one of {len(labels)} images; {more}")
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[torch.cat(held_out)] = True
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()


class TrainBatches:
    """Batch sampler whose order is a function of (seed, epoch) alone, so that training can go on at any batch.

    The epoch, and the batches of it that are done, are asked of the trainer whenever an iteration starts: when a run
    is resumed, the loader continues with the very batch that would have come next. The last, smaller batch is dropped.
    """

    def __init__(self, size: int, batch_size: int, seed: int, trainer):
        self.size, self.seed, self.trainer = size, seed, trainer
        share = size // trainer.world_size
        if not share:
            raise InputError(f"there are {size} training images for {trainer.world_size} devices; use fewer devices")
        self.batch_size = min(batch_size, share)
        self.batches = share // self.batch_size

    def __len__(self) -> int:
        return self.batches

    def __iter__(self):
        loop = self.trainer.fit_loop
        epoch = loop.epoch_progress.current.processed
        resumed_within = loop.epoch_progress.current.ready > epoch
        done = loop.epoch_loop.batch_progress.current.processed if resumed_within else 0
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(fold_in(self.seed, epoch)))
        mine = order[self.trainer.global_rank :: self.trainer.world_size]
        return iter(mine[: self.batches * self.batch_size].split(self.batch_size)[done:])


class ImageDataModule(LightningDataModule):
    """What all datasets share; use one of its subclasses.

    Args:
        root: folder that holds the datasets.
        batch_size: training images of one step, on each device.
        patch_size: side P of the square patches in pixels; null serves whole images (CNN, convolutional stem).
        val_fraction: part of the training images held out for validation; 0 trains on all of them.
        augment: random changes to the training images; see `Augmentation`.
        eval_batch_size: images of one validation or test step.
        workers: processes that fetch batches; images in memory need none.
        memory_budget: GiB of decoded images to hold in memory; image files beyond it are decoded when needed.
        skip_broken: leave damaged image files out and say how many, rather than stop.
        seed: of the split, the order and the augmentation; `train.py` sets it from `seed_everything`.
    """

    name: str
    image_size: int
    channels: int
    classes: list[str]
    mean: list[float]
    std: list[float]

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 128,
        patch_size: int | None = 4,
        val_fraction: float = 0.1,
        augment: Augmentation = Augmentation(),  # noqa: B008  (never changed in place)
        eval_batch_size: int = 500,
        workers: int = 0,
        memory_budget: float = 4.0,
        skip_broken: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        if batch_size < 1 or eval_batch_size < 1:
            raise InputError(f"data.batch_size {batch_size} and data.eval_batch_size {eval_batch_size}: use 1 or more")
        if not 0 <= val_fraction < 1:
            raise InputError(f"data.val_fraction {val_fraction}: use a value from 0 up to, but not including, 1")
        if workers < 0 or memory_budget < 0:
            raise InputError(f"data.workers {workers} and data.memory_budget {memory_budget}: use 0 or more")
        self.root, self.batch_size, self.patch_size = Path(root), batch_size, patch_size
        self.val_fraction, self.augmentation, self.eval_batch_size = val_fraction, augment, eval_batch_size
        self.workers, self.memory_budget, self.skip_broken, self.seed = workers, memory_budget, skip_broken, seed
        self.sets: dict[str, ImageSet] = {}
        self.patchify = Patchify(patch_size) if patch_size else lambda images: images

    @property
    def description(self) -> dict:
        """The dataset in plain primitives, as it stands in every checkpoint."""
        return {
            "module": type(self).__name__, "name": self.name, "root": str(self.root), "image_size": self.image_size,
            "channels": self.channels, "classes": list(self.classes), "mean": list(self.mean), "std": list(self.std),
            "patch_size": self.patch_size,
        }  # fmt: skip

    # Reading ----------------------------------------------------------------------------------------------------------

    def read(self, split: str) -> ImageSet | None:
        """All images of "train", "val" or "test"; None where the dataset has no such split."""
        raise NotImplementedError  # each subclass knows where its images are

    def read_class_folders(self, folder: Path) -> ImageSet:
        """Images from `folder/<class>/*`, decoded once and kept in `<root>/.cache`."""
        cache = self.root / ".cache" / f"{self.name}-{folder.name}-{self.image_size}x{self.channels}.pt"
        budget = int(self.memory_budget * 2**30)
        return read_folder(
            folder, self.classes, self.image_size, self.channels,
            cache=cache, budget=budget, skip_broken=self.skip_broken,
        )  # fmt: skip

    def prepare_data(self) -> None:
        """Download and decode, in one process, before any training: what is missing is said now, not hours later."""
        self.setup("fit")
        self.setup("test")

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.augmentation.shift >= self.image_size:
            most = f"images of {self.image_size} pixels can be moved by {self.image_size - 1} at most"
            raise InputError(f"data.augment.shift {self.augmentation.shift}: {most}; use less")
        if stage == "fit" and "train" not in self.sets:
            train, val = self.read("train"), self.read("val")
            if val is None and self.val_fraction:
                train_indices, val_indices = split_indices(train.labels, self.val_fraction, self.seed)
                train, val = train.subset(train_indices), train.subset(val_indices)
            self.sets |= {"train": train, "val": val}
        if stage == "test" and "test" not in self.sets:
            self.sets["test"] = self.read("test")

    # Serving ----------------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader:
        train = self.sets["train"]
        return self._loader(train, TrainBatches(len(train), self.batch_size, self.seed, self.trainer))

    def val_dataloader(self) -> DataLoader | list:
        return self._eval_loader("val") if self.sets["val"] else []

    def test_dataloader(self) -> DataLoader | list:
        return self._eval_loader("test") if self.sets["test"] else []

    def _eval_loader(self, split: str) -> DataLoader:
        return self._loader(self.sets[split], torch.arange(len(self.sets[split])).split(self.eval_batch_size))

    def _loader(self, images: ImageSet, batches) -> DataLoader:
        return DataLoader(
            images, batch_sampler=batches, collate_fn=_as_is, num_workers=self.workers,
            persistent_workers=self.workers > 0, pin_memory=torch.cuda.is_available(), worker_init_fn=_ignore_signals,
        )  # fmt: skip

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """uint8 [B, C, H, W] and labels [B], on the device -> what the network reads, and its targets.

        Training targets become soft, [B, K], when MixUp or CutMix is on.
        """
        images, labels = batch
        if not self.trainer.training:
            return self.patchify(normalize(images, self.mean, self.std)), labels
        loop = self.trainer.fit_loop
        seed = fold_in(
            self.seed, loop.epoch_progress.current.processed, loop.epoch_loop.batch_progress.current.ready,
            self.trainer.global_rank,
        )  # fmt: skip
        generator = torch.Generator(images.device).manual_seed(seed)
        images = self.augment(images, generator)
        if self.augmentation.mixup or self.augmentation.cutmix:
            images, labels = mix(images, labels, len(self.classes), self.augmentation, generator)
        return self.patchify(images), labels

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 [B, C, H, W] -> augmented and normalised float32 [B, C, H, W]"""
        return Augment(self.augmentation, self.mean, self.std)(images, generator)


def _ignore_signals(worker: int) -> None:
    """A signal to the whole process group, as Ctrl-C is, must leave the batches coming until the step is done."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _as_is(batch):
    return batch  # `ImageSet` has already made a batch of it


class NamedDataModule(ImageDataModule):
    """A dataset of the table: in torchvision's own files, or as class folders `<root>/<name>/{train,test}/<class>/`."""

    def __init__(self, name: str, **kwargs):
        super().__init__(**kwargs)
        info = DATASETS[name]
        self.name, self.image_size, self.channels = name, info.image_size, info.channels
        self.classes, self.mean, self.std = list(info.classes), list(info.mean), list(info.std)

    def read(self, split: str) -> ImageSet | None:
        if split == "val":
            return None
        if self.name == "digits":
            return ImageSet(*read_digits(split))
        folders = self.root / self.name
        if folders.is_dir():
            return self.read_class_folders(folders / split)
        return ImageSet(*read_torchvision(self.name, self.root, split))


class DigitsDataModule(NamedDataModule):
    """scikit-learn's 1,797 handwritten digits, 8x8, grey: part of that package, nothing to download."""

    def __init__(self, patch_size: int | None = 2, augment: Augmentation = SMALL_DIGIT_CHANGES, **kwargs):
        super().__init__("digits", patch_size=patch_size, augment=augment, **kwargs)


class MNISTDataModule(NamedDataModule):
    """60,000 training and 10,000 test images of handwritten digits, 28x28, grey."""

    def __init__(self, patch_size: int | None = 7, augment: Augmentation = DIGIT_CHANGES, **kwargs):
        super().__init__("mnist", patch_size=patch_size, augment=augment, **kwargs)


class FashionMNISTDataModule(NamedDataModule):
    """60,000 training and 10,000 test images of clothes, 28x28, grey."""

    def __init__(self, patch_size: int | None = 4, augment: Augmentation = CLOTHES_CHANGES, **kwargs):
        super().__init__("fashion_mnist", patch_size=patch_size, augment=augment, **kwargs)


class CIFAR10DataModule(NamedDataModule):
    """50,000 training and 10,000 test photos of ten classes, 32x32, colour."""

    def __init__(self, patch_size: int | None = 4, augment: Augmentation = PHOTO_CHANGES, **kwargs):
        super().__init__("cifar10", patch_size=patch_size, augment=augment, **kwargs)


class CIFAR100DataModule(NamedDataModule):
    """50,000 training and 10,000 test photos of a hundred classes, 32x32, colour."""

    def __init__(self, patch_size: int | None = 4, augment: Augmentation = PHOTO_CHANGES, **kwargs):
        super().__init__("cifar100", patch_size=patch_size, augment=augment, **kwargs)


class FolderDataModule(ImageDataModule):
    """Your own images: `<root>/train/<class>/*`, and if you have them `<root>/val/...` and `<root>/test/...`.

    Images of any size and mode are turned upright, cropped to the centre square and resized to `image_size`. Without
    `val/`, `val_fraction` of the training images is held out; without `test/`, nothing is tested after training.

    Args:
        image_size: side in pixels that the images are resized to.
        channels: 3 for colour, 1 for grey.
        mean: mean of each channel, 0 to 1; the default is ImageNet's, which pre-trained weights expect.
        std: standard deviation of each channel, likewise.
    """

    def __init__(
        self,
        root: str = "data/folder",
        image_size: int = 64,
        channels: Literal[1, 3] = 3,
        patch_size: int | None = 8,
        augment: Augmentation = PHOTO_CHANGES,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        **kwargs,
    ):
        super().__init__(root=root, patch_size=patch_size, augment=augment, **kwargs)
        if image_size < 1:
            raise InputError(f"data.image_size {image_size}: use 1 or more")
        self.image_size, self.channels = image_size, channels
        self.mean = mean or ([0.485, 0.456, 0.406] if channels == 3 else [0.5])
        self.std = std or ([0.229, 0.224, 0.225] if channels == 3 else [0.25])
        if len(self.mean) != channels or len(self.std) != channels or min(self.std) <= 0:
            raise InputError(f"data.mean {self.mean} and data.std {self.std}: give {channels} values, std above 0")
        self.name = self.root.name or "folder"
        self.classes = list_classes(self.root / "train")

    def read(self, split: str) -> ImageSet | None:
        folder = self.root / split
        return self.read_class_folders(folder) if split == "train" or folder.is_dir() else None
