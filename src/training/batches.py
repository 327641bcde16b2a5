"""What a batch must look like, whichever DataLoader it comes from."""

import torch
from torch import Tensor

from src.errors import InputError
from src.transforms.patchify import normalize


class Batches:
    """Checks batches, and normalizes those of uint8 images.

    Args:
        dataset: the dataset in plain primitives: `channels`, `image_size`, `patch_size`, `mean`, `std` and `classes`.
    """

    def __init__(self, dataset: dict):
        self.mean, self.std, self.classes = dataset["mean"], dataset["std"], len(dataset["classes"])
        C, H, P = dataset["channels"], dataset["image_size"], dataset["patch_size"]
        self.image = (C, H, H)
        self.patches = ((H // P) ** 2, P * P * C) if P else None

    def inputs(self, batch: Tensor | list | tuple, dtype: torch.dtype) -> Tensor:
        """The first of a batch, or all of it -> what the network reads, of its dtype.

        uint8 images [B, C, H, W] are normalized; float images, and patches [B, N, P*P*C], are taken as they are.

        Raises:
            InputError: it is none of these.
        """
        x = batch[0] if isinstance(batch, list | tuple) and batch else batch
        shape = tuple(x.shape[1:]) if isinstance(x, Tensor) else None
        if shape == self.image and x.dtype == torch.uint8:
            return normalize(x, self.mean, self.std).to(dtype)
        if shape is None or shape not in (self.image, self.patches) or not x.is_floating_point():
            images = "[B, {}, {}, {}]".format(*self.image)
            patches = " or float patches [B, {}, {}]".format(*self.patches) if self.patches else ""
            raise InputError(
                f"inputs must be uint8 or float images {images}{patches}, not {_shown(x)}"
            )
        return x.to(dtype)

    def targets(self, batch: list | tuple) -> tuple[Tensor, Tensor]:
        """The second of a batch: what the loss takes, int64 [B] or float [B, K], and the labels, int64 [B].

        Raises:
            InputError: the batch is not a pair, or its second part is neither labels nor probabilities.
        """
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise InputError(f"a batch must be a pair (inputs, labels), not {_shown(batch)}")
        inputs, targets = batch
        shape = tuple(targets.shape) if isinstance(targets, Tensor) else None
        if shape == (len(inputs),) and targets.dtype == torch.int64:
            return targets, targets
        if shape == (len(inputs), self.classes) and targets.is_floating_point():
            return targets, targets.argmax(
                1
            )  # of soft targets, as MixUp makes them, the one that weighs most
        B, K = len(inputs), self.classes
        raise InputError(
            f"labels must be int64 [{B}], or probabilities [{B}, {K}], not {_shown(targets)}"
        )


def _shown(x) -> str:
    return f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
