"""The data modules: named datasets, and your own images."""

from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from src.config import DatasetInfo, Fit
from src.data.datasets import DATASETS
from src.data.huggingface import copy_images, is_huggingface
from src.data.image_data import ImageDataModule
from src.data.image_set import ImageSet
from src.data.images import describe_cropping
from src.data.layouts import list_own_classes
from src.data.listing import Split, describe_other_folders
from src.data.splits import OWN_IMAGES
from src.transforms.augment import Augmentation

# No translation, because one pixel is a lot in an 8x8 image.
SMALL_DIGIT_AUGMENTATION = Augmentation(rotate=10, resized_crop=0.7)
DIGIT_AUGMENTATION = Augmentation(translate=2, rotate=10, scale=0.1)
CLOTHES_AUGMENTATION = Augmentation(translate=2, flip=True)


class NamedDataModule(ImageDataModule):
    """A named dataset: torchvision's files, or `<root>/<name>/{train,test}/<class>/*`."""

    dataset: ClassVar[str]

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._describe(DATASETS[self.dataset])


class DigitsDataModule(NamedDataModule):
    """The 1,797 handwritten digits included in scikit-learn, 8x8, grayscale."""

    dataset = "digits"

    def __init__(
        self,
        patch_size: int | None = 2,
        augment: Augmentation = SMALL_DIGIT_AUGMENTATION,
        **kwargs: Any,
    ):
        super().__init__(patch_size=patch_size, augment=augment, **kwargs)

    def split(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Hold out consecutive images, by default the last; the images are sorted by writer."""
        indices = torch.arange(len(labels))
        if self.folds:
            parts = list(indices.tensor_split(self.folds))
            held_out = parts.pop(self.fold)
            return torch.cat(parts), held_out
        count = min(max(1, round(self.val_fraction * len(labels))), len(labels) - 1)
        return indices[:-count], indices[-count:]


class MNISTDataModule(NamedDataModule):
    """60,000 training and 10,000 test images of handwritten digits, 28x28, grayscale."""

    dataset = "mnist"

    def __init__(
        self,
        patch_size: int | None = 7,
        augment: Augmentation = DIGIT_AUGMENTATION,
        **kwargs: Any,
    ):
        super().__init__(patch_size=patch_size, augment=augment, **kwargs)


class FashionMNISTDataModule(NamedDataModule):
    """60,000 training and 10,000 test images of clothes, 28x28, grayscale."""

    dataset = "fashion_mnist"

    def __init__(self, augment: Augmentation = CLOTHES_AUGMENTATION, **kwargs: Any):
        super().__init__(augment=augment, **kwargs)


class CIFAR10DataModule(NamedDataModule):
    """50,000 training and 10,000 test photos of ten classes, 32x32, color."""

    dataset = "cifar10"


class CIFAR100DataModule(NamedDataModule):
    """50,000 training and 10,000 test photos of a hundred classes, 32x32, color."""

    dataset = "cifar100"


class FolderDataModule(ImageDataModule):
    """Your own images, in any of the layouts in docs/own-images.md.

    By default, `<root>/train/<class>/*`, and optionally `<root>/val/` and `<root>/test/`.
    Images of any size and mode are turned upright and resized to squares of `image_size`. Without
    `val/`, `val_fraction` of the training images is held out. Without `test/`, there is no test
    after training.

    Args:
        root: folder that contains train/, class folders or Parquet files; a CSV or JSON-lines file;
            or hf:NAME for a dataset on the Hugging Face Hub.
        image_size: side length in pixels to resize the images to.
        channels: 3 for color, 1 for grayscale.
        mean: per-channel mean, on a scale from 0 to 1; the default for color is the ImageNet mean,
            which pretrained weights expect.
        std: per-channel standard deviation on the same scale.
        fit: how images are made square. `crop` keeps the center, `pad` keeps the
            whole image and repeats the pixels at its edges, and `stretch` distorts it.
        mirror_keeps_class: whether the mirror image of an image has the same class. If not,
            `augment.flip` and `model.mirror` have no effect.
    """

    def __init__(
        self,
        root: str = "data/folder",
        image_size: int = 64,
        channels: Literal[1, 3] = 3,
        patch_size: int | None = 8,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        fit: Fit = "crop",
        mirror_keeps_class: bool = True,
        **kwargs: Any,
    ):
        super().__init__(root=root, patch_size=patch_size, **kwargs)
        if is_huggingface(self.root):
            copy_images(self.root)
        mean = mean or ([0.485, 0.456, 0.406] if channels == 3 else [0.5])
        std = std or ([0.229, 0.224, 0.225] if channels == 3 else [0.25])
        info = DatasetInfo(
            classes=tuple(list_own_classes(self.root)),
            image_size=image_size,
            channels=channels,
            mean=tuple(mean),
            std=tuple(std),
            fit=fit,
            mirror_keeps_class=mirror_keeps_class,
            name=self.root.stem if self.root.is_file() else self.root.name or "folder",
            module=OWN_IMAGES,
        )
        if not mirror_keeps_class:
            self.augmentation = replace(self.augmentation, flip=False)
        self._describe(info)

    def read(self, split: Split) -> ImageSet | None:
        if split == "train" and (note := describe_other_folders(self.root)):
            self.notes.append(note)
        images = super().read(split)
        if split == "train" and images and self.info.fit == "crop":
            if note := describe_cropping(images.paths or []):
                self.notes.append(note)
        return images
