"""A dataset that returns whole batches of images and labels, from memory or from files."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from src.config import Fit
from src.data.images import read_image


class ImageSet(Dataset):
    """Images and labels. The images are in memory, or files that are decoded on demand.

    Args:
        images: uint8 [M, C, H, W]; may be memory-mapped, so that processes share the memory. If M
            is 0, the images are decoded on demand.
        labels: int64 [N].
        paths: paths of the N images; None if the images do not have their own files.
        rows: int64 [N], rows of `images`; by default, all of them in order.
        fingerprint: hashes that identify the images, by class.
        image_hashes: int64 [N], equal for identical images; None if they were not computed.
        fit: how images that are decoded on demand are made square; see `read_image`.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        paths: list[str] | None = None,
        rows: Tensor | None = None,
        fingerprint: dict[str, str] | None = None,
        image_hashes: Tensor | None = None,
        fit: Fit = "crop",
    ):
        self.stored = images
        self.labels = labels
        self.paths = paths
        self.rows = rows
        self.fingerprint = fingerprint
        self.image_hashes = image_hashes
        self.fit = fit

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str | int:
        """Return the path of an image, or its index if it does not have its own file."""
        return self.paths[index] if self.paths else index

    @property
    def in_memory(self) -> bool:
        """Whether the images are in memory, and not decoded on demand."""
        return len(self.stored) > 0

    @property
    def images(self) -> Tensor:
        """The images that are in memory, uint8 [N, C, H, W]; a copy if `rows` is given."""
        return self.stored if self.rows is None else self.stored[self.rows]

    def __getitems__(self, indices: Tensor | list[int]) -> tuple[Tensor, Tensor]:
        """Return a whole batch: int64 [B] -> uint8 [B, C, H, W], int64 [B].

        Raises:
            InputError: an image file cannot be read.
        """
        indices = torch.as_tensor(indices)
        labels = self.labels[indices]
        if self.in_memory:
            return self.stored[indices if self.rows is None else self.rows[indices]], labels
        assert self.paths is not None
        channels, size = self.stored.shape[1:3]
        paths = [self.paths[index] for index in indices.tolist()]
        return torch.stack([read_image(path, size, channels, self.fit) for path in paths]), labels

    def to(self, device: torch.device) -> "ImageSet":
        """Return a copy on `device`; the images must be in memory."""
        return ImageSet(self.images.to(device), self.labels.to(device))

    def subset(self, indices: Tensor) -> "ImageSet":
        """Return the subset with the given int64 indices, without copying images."""
        rows = None
        if self.in_memory:
            rows = indices if self.rows is None else self.rows[indices]
        return ImageSet(
            self.stored,
            self.labels[indices],
            self.paths and [self.paths[index] for index in indices.tolist()],
            rows,
            image_hashes=None if self.image_hashes is None else self.image_hashes[indices],
            fit=self.fit,
        )
