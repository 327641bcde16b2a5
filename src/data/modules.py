"""The LightningDataModules: reading, the validation split, and the way to the device.

dataset files -> uint8 images [N, C, H, W] and int64 labels [N], in memory
  -> on the device where they fit: a whole batch by one tensor index, no per-sample Python, no copy in a step
     (or else by the same index through a DataLoader, whose workers, and pinned memory, keep batches ready)
  -> uint8 batch on the device -> augment (training only), normalize, patchify -> [B, N_patches, P*P*C]
"""

import signal
from pathlib import Path
from typing import Literal

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from src import lightning_loop as loop
from src.data.datasets import DATASETS, DatasetInfo, read_digits, read_torchvision
from src.data.folders import ImageSet, list_classes, read_folder
from src.data.sampling import InMemoryBatches, Share, TrainBatches, split_indices
from src.errors import InputError
from src.randomness import fold_in
from src.transforms.augment import Augment, Augmentation
from src.transforms.mixing import mix
from src.transforms.patchify import Patchify, normalize

SMALL_DIGIT_CHANGES = Augmentation(
    rotate=10, resized_crop=0.7
)  # a translation by a whole pixel of eight is too much
DIGIT_CHANGES = Augmentation(translate=2, rotate=10, scale=0.1)
CLOTHES_CHANGES = Augmentation(translate=2, flip=True)
PHOTO_CHANGES = Augmentation(translate=4, flip=True)


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
        on_device: 'auto' keeps images on the device that trains, where a quarter of its free memory holds them; 'never'
            leaves them in the host's memory, and serves them through a DataLoader.
        memory_budget: GiB of decoded images to hold in memory; image files beyond it are decoded when needed.
        skip_broken: leave damaged image files out and say how many, rather than stop.
        seed: of the split, the order and the augmentation; `train.py` sets it from `seed_everything`.
    """

    info: DatasetInfo  # each subclass knows its own

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 128,
        patch_size: int | None = 4,
        val_fraction: float = 0.1,
        augment: Augmentation = Augmentation(),  # noqa: B008  (never changed in place)
        eval_batch_size: int = 500,
        workers: int = 0,
        on_device: Literal["auto", "never"] = "auto",
        memory_budget: float = 4.0,
        skip_broken: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        if batch_size < 1 or eval_batch_size < 1:
            raise InputError(
                f"data.batch_size {batch_size} and data.eval_batch_size {eval_batch_size}: use 1 or more"
            )
        if not 0 <= val_fraction < 1:
            raise InputError(
                f"data.val_fraction {val_fraction}: use a value from 0 up to, but not including, 1"
            )
        if workers < 0 or memory_budget < 0:
            raise InputError(
                f"data.workers {workers} and data.memory_budget {memory_budget}: use 0 or more"
            )
        self.root, self.batch_size, self.patch_size = Path(root), batch_size, patch_size
        self.val_fraction, self.augmentation, self.eval_batch_size = (
            val_fraction,
            augment,
            eval_batch_size,
        )
        self.workers, self.on_device, self.memory_budget = workers, on_device, memory_budget
        self.skip_broken, self.seed = skip_broken, seed
        self.sets: dict[str, ImageSet] = {}
        self.patchify = Patchify(patch_size) if patch_size else torch.nn.Identity()

    @property
    def description(self) -> dict:
        """The dataset in plain primitives, as it stands in every checkpoint."""
        ours = {
            "module": type(self).__name__,
            "root": str(self.root),
            "patch_size": self.patch_size,
        }
        return ours | self.info.as_primitives()

    # Reading ----------------------------------------------------------------------------------------------------------

    def read(self, split: str) -> ImageSet | None:
        """All images of "train", "val" or "test"; None where the dataset has no such split."""
        raise NotImplementedError  # each subclass knows where its images are

    def read_class_folders(self, folder: Path) -> ImageSet:
        """Images from `folder/<class>/*`, decoded once and kept in `<root>/.cache`."""
        info, budget = self.info, int(self.memory_budget * 2**30)
        cache = (
            self.root / ".cache" / f"{info.name}-{folder.name}-{info.image_size}x{info.channels}.pt"
        )
        return read_folder(folder, info, cache=cache, budget=budget, skip_broken=self.skip_broken)

    def prepare_data(self) -> None:
        """Download and decode, in one process, before any training: what is missing is said now, not hours later."""
        self.setup("fit")
        self.setup("test")

    def setup(self, stage: str) -> None:
        if stage in ("fit", "validate") and self.augmentation.translate >= (
            size := self.info.image_size
        ):
            most = f"images of {size} pixels can be moved by {size - 1} at most"
            raise InputError(
                f"data.augment.translate {self.augmentation.translate}: {most}; use less"
            )
        if stage in ("fit", "validate") and "train" not in self.sets:
            train, val = self.read("train"), self.read("val")
            if val is None and self.val_fraction:
                train_indices, val_indices = self.split(train.labels)
                train, val = train.subset(train_indices), train.subset(val_indices)
            self.sets |= {"train": train, "val": val}
        if stage in ("test", "predict") and "test" not in self.sets:
            self.sets["test"] = self.read("test")

    def split(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Labels of all training images -> indices to train on, indices to validate on."""
        return split_indices(labels, self.val_fraction, self.seed)

    # Serving ----------------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> InMemoryBatches | DataLoader:
        train = self.sets["train"]
        if not self.trainer:
            raise InputError(
                "train_dataloader: the order follows from the epoch; give Trainer.fit the data module itself"
            )
        batches = TrainBatches(len(train), self.batch_size, self.seed, self.trainer)
        return self._loader(train, batches)

    def val_dataloader(self) -> InMemoryBatches | DataLoader | list:
        return self._eval_loader("val") if self.sets["val"] else []

    def test_dataloader(self) -> InMemoryBatches | DataLoader | list:
        return self._eval_loader("test") if self.sets["test"] else []

    def predict_dataloader(self) -> InMemoryBatches | DataLoader | list:
        """The test images in their order; of several processes, the first has every n-th of them from the first."""
        return self.test_dataloader()

    def _eval_loader(self, split: str) -> InMemoryBatches | DataLoader:
        rank, processes = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        images, size = self.sets[split], self.eval_batch_size
        share = Share(len(images), rank, processes)
        batches = torch.tensor(list(share)).split(size)
        return self._loader(
            images, batches, batch_size=size, sampler=share if processes > 1 else None
        )

    def _loader(self, images: ImageSet, batches, **options) -> InMemoryBatches | DataLoader:
        """Batches by their indices; `options` say the same to a DataLoader, where it takes one."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        on_cuda = device.type == "cuda"
        if self.on_device == "auto" and not images.paths:
            if (
                on_cuda and images.images.nbytes <= torch.cuda.mem_get_info(device)[0] / 4
            ):  # networks need the rest
                return InMemoryBatches(images.to(device), batches)
            if not on_cuda and not self.workers:
                return InMemoryBatches(images, batches)
        return DataLoader(
            images,
            **(options or {"batch_sampler": batches}),
            collate_fn=_as_is,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=on_cuda,  # from there a batch is copied while the device is at work
            worker_init_fn=_ignore_signals,
        )

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor], dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        """uint8 [B, C, H, W] and labels [B], on the device -> what the network reads, and its targets.

        Training targets become soft, [B, K], when MixUp or CutMix is on.
        """
        images, labels = batch
        if not self.trainer.training:
            return self.patchify(normalize(images, self.info.mean, self.info.std)), labels
        trainer = self.trainer
        seed = fold_in(
            self.seed, loop.epochs_done(trainer), loop.batch(trainer), trainer.global_rank
        )
        generator = torch.Generator(images.device).manual_seed(seed)
        images = self.augment(images, generator)
        if self.augmentation.mixup or self.augmentation.cutmix:
            images, labels = mix(
                images, labels, len(self.info.classes), self.augmentation, generator
            )
        return self.patchify(images), labels

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 [B, C, H, W] -> augmented and normalized float32 [B, C, H, W]"""
        return Augment(self.augmentation, self.info.mean, self.info.std)(images, generator)


def _ignore_signals(worker: int) -> None:
    """A signal to the whole process group, as Ctrl-C is, must leave the batches coming until the step is done."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _as_is(batch):
    return batch  # `ImageSet` has already made a batch of it


class NamedDataModule(ImageDataModule):
    """A dataset of the table: in torchvision's own files, or as class folders `<root>/<name>/{train,test}/<class>/`."""

    download = True  # files that are missing

    def __init__(self, name: str, **kwargs):
        super().__init__(**kwargs)
        self.info = DATASETS[name]

    def read(self, split: str) -> ImageSet | None:
        if split == "val":
            return None
        if self.info.name == "digits":
            return ImageSet(*read_digits(split))
        folders = self.root / self.info.name
        if folders.is_dir():
            return self.read_class_folders(folders / split)
        return ImageSet(*read_torchvision(self.info.name, self.root, split, self.download))


class DigitsDataModule(NamedDataModule):
    """scikit-learn's 1,797 handwritten digits, 8x8, gray: part of that package, nothing to download."""

    def __init__(
        self, patch_size: int | None = 2, augment: Augmentation = SMALL_DIGIT_CHANGES, **kwargs
    ):
        super().__init__("digits", patch_size=patch_size, augment=augment, **kwargs)

    def split(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Whatever the seed, the last images are held out: those of other people than one trains on, as in the test."""
        held_out = min(max(1, round(self.val_fraction * len(labels))), len(labels) - 1)
        return tuple(torch.arange(len(labels)).split([len(labels) - held_out, held_out]))


class MNISTDataModule(NamedDataModule):
    """60,000 training and 10,000 test images of handwritten digits, 28x28, gray."""

    def __init__(self, patch_size: int | None = 7, augment: Augmentation = DIGIT_CHANGES, **kwargs):
        super().__init__("mnist", patch_size=patch_size, augment=augment, **kwargs)


class FashionMNISTDataModule(NamedDataModule):
    """60,000 training and 10,000 test images of clothes, 28x28, gray."""

    def __init__(
        self, patch_size: int | None = 4, augment: Augmentation = CLOTHES_CHANGES, **kwargs
    ):
        super().__init__("fashion_mnist", patch_size=patch_size, augment=augment, **kwargs)


class CIFAR10DataModule(NamedDataModule):
    """50,000 training and 10,000 test photos of ten classes, 32x32, color."""

    def __init__(self, patch_size: int | None = 4, augment: Augmentation = PHOTO_CHANGES, **kwargs):
        super().__init__("cifar10", patch_size=patch_size, augment=augment, **kwargs)


class CIFAR100DataModule(NamedDataModule):
    """50,000 training and 10,000 test photos of a hundred classes, 32x32, color."""

    def __init__(self, patch_size: int | None = 4, augment: Augmentation = PHOTO_CHANGES, **kwargs):
        super().__init__("cifar100", patch_size=patch_size, augment=augment, **kwargs)


class FolderDataModule(ImageDataModule):
    """Your own images: `<root>/train/<class>/*`, and if you have them `<root>/val/...` and `<root>/test/...`.

    Images of any size and mode are turned upright, cropped to the center square and resized to `image_size`. Without
    `val/`, `val_fraction` of the training images is held out; without `test/`, nothing is tested after training.

    Args:
        image_size: side in pixels that the images are resized to.
        channels: 3 for color, 1 for gray.
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
        mean = mean or ([0.485, 0.456, 0.406] if channels == 3 else [0.5])
        std = std or ([0.229, 0.224, 0.225] if channels == 3 else [0.25])
        if len(mean) != channels or len(std) != channels or min(std) <= 0:
            raise InputError(
                f"data.mean {mean} and data.std {std}: give {channels} values, std above 0"
            )
        classes = list_classes(self.root / "train")
        self.info = DatasetInfo(
            self.root.name or "folder", image_size, tuple(classes), tuple(mean), tuple(std)
        )

    def read(self, split: str) -> ImageSet | None:
        folder = self.root / split
        return self.read_class_folders(folder) if split == "train" or folder.is_dir() else None
