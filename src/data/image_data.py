"""Base class of the data modules: hold out validation images, and serve batches to the network.

dataset files -> uint8 images [N, C, H, W] and int64 labels [N] in memory, on the device if they fit
  -> uint8 batch by one tensor index, with no Python code per image
     (through a DataLoader with workers and pinned memory if the images are not on the device)
  -> augment (training only), normalize, patchify -> [B, N_patches, P*P*C]
"""

import signal
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader

from src import lightning_loop as loop
from src.config import DatasetInfo
from src.data.folders import read_files
from src.data.image_set import ImageSet
from src.data.listing import Listing, Split, count_names, short_hash
from src.data.sampling import (
    Balance,
    Batches,
    InMemoryBatches,
    Share,
    TrainBatches,
    class_weights,
    split_fold,
    split_indices,
)
from src.data.splits import open_split
from src.errors import InputError, printable
from src.randomness import fold_in
from src.transforms.augment import Augment, Augmentation
from src.transforms.mixing import mix
from src.transforms.patchify import Patchify, check_patch_size, normalize

PHOTO_AUGMENTATION = Augmentation(translate=4, flip=True)

IMBALANCE = 2
Loader = InMemoryBatches | DataLoader


class ImageDataModule(LightningDataModule):
    """Base class of the data modules; use one of its subclasses.

    Args:
        root: folder that contains the datasets.
        batch_size: number of training images per step on each device.
        patch_size: side length P of the square patches in pixels; null serves whole images for a
            CNN or a convolutional stem.
        val_fraction: fraction of the training images to hold out for validation; 0 trains on all
            images.
        folds: number of folds for cross-validation; replaces `val_fraction` unless it is 0. The
            training images are split into this many parts with equal shares of each class.
        fold: index of the part to validate on, from 0 to `folds` - 1; the rest is for training.
        augment: augmentation of the training images; see `Augmentation`.
        balance: how to compensate for class imbalance. 'sampler' draws images of all classes
            equally often; 'loss' weights the loss of an image by 1 / n, where n is the number of
            images of its class. 'sampler_sqrt' and 'loss_sqrt' use 1 / sqrt(n) instead.
        eval_batch_size: number of images per validation or test step.
        workers: number of data loader processes; not needed for images in memory.
        on_device: 'auto' keeps the images on the training device if they fit into a quarter of its
            free memory; 'never' keeps them in host memory and serves them through a DataLoader.
        memory_budget: maximum size in GiB of the decoded images of a split in memory; images of a
            larger split are decoded on demand.
        skip_broken: skip damaged image files and print their number instead of raising an error.
        seed: seed for the validation split, shuffling and augmentation; `train.py` sets it from
            `seed_everything`.

    Attributes:
        info: complete description of the dataset, as stored in checkpoints.
        sets: splits that have been read, by name; None for splits that the dataset does not have.
        fingerprint: hashes of the training and validation images, by split and class.
        notes: remarks on the files that have been read, which `prepare_data` prints.
    """

    info: DatasetInfo

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 128,
        patch_size: int | None = 4,
        val_fraction: float = 0.1,
        folds: int = 0,
        fold: int = 0,
        augment: Augmentation = PHOTO_AUGMENTATION,
        balance: Balance = "none",
        eval_batch_size: int = 500,
        workers: int = 0,
        on_device: Literal["auto", "never"] = "auto",
        memory_budget: float = 4.0,
        skip_broken: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        self.root = Path(root)
        self.batch_size = batch_size
        self.patch_size = patch_size
        self.val_fraction = val_fraction
        self.folds = folds
        self.fold = fold
        self.augmentation = augment
        self.balance = balance
        self.eval_batch_size = eval_batch_size
        self.workers = workers
        self.on_device = on_device
        self.memory_budget = memory_budget
        self.skip_broken = skip_broken
        self.seed = seed
        self.sets: dict[str, ImageSet | None] = {}
        self.fingerprint: dict[str, str] = {}
        self.notes: list[str] = []
        self.patchify = Patchify(patch_size) if patch_size else torch.nn.Identity()
        least = {"batch_size": 1, "eval_batch_size": 1, "workers": 0, "memory_budget": 0}
        for name, lowest in least.items():
            if not (value := getattr(self, name)) >= lowest:
                raise InputError(f"data.{name} must be at least {lowest}, got {value}")
        if not 0 <= val_fraction < 1:
            raise InputError(
                f"data.val_fraction must be at least 0 and below 1, got {val_fraction}"
            )
        if folds < 0 or folds == 1 or not 0 <= fold < max(folds, 1):
            raise InputError(
                f"data.folds {folds} and data.fold {fold}: use at least 2 folds, and a fold from 0 "
                "to folds - 1"
            )

    def _describe(self, info: DatasetInfo) -> None:
        """Set `info`, and check the settings that depend on the image size."""
        self.info = replace(info, patch_size=self.patch_size, root=str(self.root))
        size = info.image_size
        if self.patch_size is not None:
            check_patch_size(self.patch_size, (size, size))
        if self.augmentation.translate >= size:
            raise InputError(
                f"data.augment.translate must be below the image size {size}, got "
                f"{self.augmentation.translate}"
            )

    # Reading the dataset

    def read(self, split: Split) -> ImageSet | None:
        """Return all images of a split, or None if the dataset does not have the split."""
        read = partial(self._read_files, split)
        return open_split(self.info, split, download=True, read_files=read)

    def _read_files(self, split: Split, listing: Listing, info: DatasetInfo) -> ImageSet:
        """Read image files and cache the decoded images in a `.cache` folder next to the files."""
        if listing.note:
            self.notes.append(listing.note)
        folder = self.root if self.root.is_dir() else listing.folder
        name = f"{info.name}-{split}-{info.image_size}x{info.channels}.pt"
        return read_files(
            listing,
            info,
            cache=folder / ".cache" / name,
            budget=int(self.memory_budget * 2**30),
            skip_broken=self.skip_broken,
            notes=self.notes,
        )

    def prepare_data(self) -> None:
        """Download and decode files in one process; report missing ones before training starts."""
        try:
            self.setup("fit")
            self.setup("test")
        finally:  # the notes may explain an error
            print_notes(self.notes)
            self.notes.clear()

    def setup(self, stage: str) -> None:
        """Read the splits that the stage needs, unless they have already been read."""
        if stage in ("fit", "validate") and "train" not in self.sets:
            train, val = self.read("train"), self.read("val")
            for split, images in (("train", train), ("val", val)):
                if not images:
                    continue
                hashes = images.fingerprint or {
                    "labels": short_hash(images.labels.numpy().tobytes())
                }
                self.fingerprint |= {f"{split}/{name}": value for name, value in hashes.items()}
            if val and self.folds:
                raise InputError(
                    f"data.folds {self.folds}: {self.root} already has validation images; move "
                    "them to the training images, or set data.folds to 0"
                )
            if train and val is None and (self.val_fraction or self.folds):
                train_indices, val_indices = self.split(train.labels)
                counts = train.labels.bincount().tolist()
                if single := [self.info.classes[k] for k, count in enumerate(counts) if count == 1]:
                    self.notes.append(count_names("classes with one image, not validated", single))
                train, val = train.subset(train_indices), train.subset(val_indices)
            self.sets |= {"train": train, "val": val}
        if stage in ("test", "predict") and "test" not in self.sets:
            self.sets["test"] = self.read("test")

    def split(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return sorted training and validation indices: int64 labels [N] -> int64 [T], [V]."""
        if self.folds:
            return split_fold(labels, self.folds, self.fold, self.seed)
        return split_indices(labels, self.val_fraction, self.seed)

    @property
    def class_sizes(self) -> Tensor:
        """The number of training images of each class, int64 [K]; needs `setup("fit")`."""
        train = self.sets["train"]
        assert train
        return train.labels.bincount(minlength=len(self.info.classes))

    @property
    def is_imbalanced(self) -> bool:
        """Whether the largest class has more than `IMBALANCE` times as many images as the smallest.

        Accuracy then depends mostly on the large classes, so balanced accuracy selects best.ckpt.
        """
        sizes = self.class_sizes
        return bool(sizes.max() > IMBALANCE * sizes.min())

    # Serving batches

    def train_dataloader(self) -> Loader:
        """Return the training batches for the current epoch of the trainer."""
        train = self.sets["train"]
        if not (train and self.trainer):
            raise InputError(
                "train_dataloader needs a trainer, because the order depends on its epoch; pass "
                "the data module itself to Trainer.fit"
            )
        self.class_weights = class_weights(train.labels, self.balance)
        draws = self.class_weights[train.labels] if self.balance.startswith("sampler") else None
        batches = TrainBatches(len(train), self.batch_size, self.seed, self.trainer, draws)
        return self._loader(train, batches, batch_sampler=batches)

    def val_dataloader(self) -> Loader | list:
        """Return the validation batches in order, or an empty list if no images are held out."""
        return self._eval_loader("val")

    def test_dataloader(self) -> Loader | list:
        """Return the test batches in order, or an empty list if there are no test images."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> Loader | list:
        """Return the test batches; process r of n processes gets images r, r + n, r + 2n, ..."""
        return self.test_dataloader()

    def share(self, split: Split) -> Share:
        """Return the indices of the images that this process evaluates, in order.

        If `trainer.limit_val_batches` selects a part of the validation images, they are shuffled,
        so that the part covers all classes; the files are sorted by class.
        """
        images, trainer = self.sets[split], self.trainer
        order: Sequence[int] = range(len(images or ()))
        if not trainer:
            return Share(order, 0, 1)
        limit, batches = trainer.limit_val_batches, len(order) / self.eval_batch_size
        if split == "val" and limit < (batches / trainer.world_size if type(limit) is int else 1):
            generator = torch.Generator().manual_seed(self.seed)
            order = torch.randperm(len(order), generator=generator).tolist()
        return Share(order, trainer.global_rank, trainer.world_size)

    def _eval_loader(self, split: Split) -> Loader | list:
        images = self.sets[split]
        if not images:
            return []
        size, share = self.eval_batch_size, self.share(split)
        batches = torch.tensor(list(share)).split(size)
        return self._loader(images, batches, batch_size=size, sampler=share)

    def _loader(self, images: ImageSet, batches: Batches, **options: Any) -> Loader:
        """Return a loader for batches of indices; `options` has them as DataLoader arguments."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        on_cuda = device.type == "cuda"
        if self.on_device == "auto" and images.in_memory:
            if on_cuda:
                room = torch.cuda.mem_get_info(device)[0] / 4  # the network needs the rest
                if len(images) * images.stored[0].nbytes <= room:
                    return InMemoryBatches(images.to(device), batches)
            elif not self.workers:
                return InMemoryBatches(images, batches)
        return DataLoader(
            images,
            **options,
            collate_fn=_identity,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=on_cuda,  # overlaps copies with computation
            worker_init_fn=_ignore_signals,
        )

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor], dataloader_idx: int
    ) -> tuple[Tensor, ...]:
        """Convert a batch on the device to inputs and targets of the network.

        uint8 [B, C, H, W], int64 [B] -> float32 patches or images, int64 [B]. With MixUp or
        CutMix, training targets are soft, float32 [B, K]. With a balanced loss, the weights of the
        training images follow, float32 [B].
        """
        images, labels = batch
        trainer = self.trainer
        assert trainer is not None  # the trainer has just transferred the batch
        if not trainer.training:
            return self.patchify(normalize(images, self.info.mean, self.info.std)), labels
        epoch, number = loop.epochs_done(trainer), loop.batch(trainer)
        seed = fold_in(self.seed, epoch, number, trainer.global_rank)
        generator = torch.Generator(images.device).manual_seed(seed)
        images = self.augment(images, generator)
        if self.augmentation.mixup or self.augmentation.cutmix:
            classes = len(self.info.classes)
            images, labels = mix(images, labels, classes, self.augmentation, generator)
        inputs = self.patchify(images)
        if not self.balance.startswith("loss"):
            return inputs, labels
        self.class_weights = weights = self.class_weights.to(images.device)
        return inputs, labels, weights[labels] if labels.ndim == 1 else labels @ weights

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment and normalize: uint8 [B, C, H, W] -> float32 [B, C, H, W]."""
        return Augment(self.augmentation, self.info.mean, self.info.std)(images, generator)


def _ignore_signals(worker: int) -> None:
    """Ignore signals to the process group, so that the current step can be completed."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


@rank_zero_only
def print_notes(notes: list[str]) -> None:
    for note in notes:
        print(f"note: {printable(note)}", flush=True)


def _identity(batch: Any) -> Any:
    return batch  # `ImageSet` returns whole batches
