"""A dataset that returns whole batches of images and labels, from memory or from files."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from src.config import Fit
from src.data.images import read_image
from src.data.listing import short_hash


class ImageSet(Dataset):
    """Images and labels. The first M images are kept in memory; the rest are decoded on demand.

    Args:
        images: uint8 [M, C, H, W]; may be memory-mapped, so that processes share the memory.
        labels: int64 [N], N >= M.
        paths: paths of all N images; None if the images do not have their own files.
        rows: int64 [n] indices; if given, the set contains only these images.
        hashes: hashes that identify the images, by class; by default, a hash of the labels.
        image_hashes: int64 [N], equal for identical images; None if they were not computed.
        fit: how the images that are not in memory become squares; see `read_image`.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        paths: list[str] | None = None,
        rows: Tensor | None = None,
        hashes: dict[str, str] | None = None,
        image_hashes: Tensor | None = None,
        fit: Fit = "crop",
    ):
        self.held = images
        self.all_labels = labels
        self.paths = paths or []
        self.rows = rows
        self.hashes = hashes
        self.all_image_hashes = image_hashes
        self.fit = fit

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_memory(self) -> bool:
        """Whether no image needs to be decoded on demand."""
        return len(self.held) == len(self.all_labels)

    @property
    def labels(self) -> Tensor:
        """The labels, int64 [n]."""
        return self.all_labels if self.rows is None else self.all_labels[self.rows]

    @property
    def image_hashes(self) -> Tensor | None:
        """Hashes of the decoded images, int64 [n]."""
        if self.all_image_hashes is None or self.rows is None:
            return self.all_image_hashes
        return self.all_image_hashes[self.rows]

    def name(self, index: int) -> str | int:
        """Return the path of an image, or its row if it does not have its own file."""
        row = index if self.rows is None else int(self.rows[index])
        return self.paths[row] if self.paths else row

    @property
    def images(self) -> Tensor:
        """The images that are in memory, uint8 [m, C, H, W]; a copy if `rows` is given."""
        if self.rows is None:
            return self.held
        return self.held[self.rows[self.rows < len(self.held)]]

    def fingerprint(self) -> dict[str, str]:
        """Return hashes that differ if the images have been replaced or renamed."""
        return self.hashes or {"labels": short_hash(self.all_labels.cpu().numpy().tobytes())}

    def __getitems__(self, indices: Tensor | list[int]) -> tuple[Tensor, Tensor]:
        """Return a whole batch: int64 [B] -> uint8 [B, C, H, W], int64 [B].

        Raises:
            InputError: an image file cannot be read.
        """
        indices = torch.as_tensor(indices)
        if self.rows is not None:
            indices = self.rows[indices]
        labels = self.all_labels[indices]
        if self.in_memory:
            return self.held[indices], labels
        images = [self._image(row) for row in indices.tolist()]
        return torch.stack(images), labels

    def _image(self, row: int) -> Tensor:
        held, channels, size = self.held.shape[:3]
        if row < held:
            return self.held[row]
        return read_image(self.paths[row], size, channels, self.fit)

    def to(self, device: torch.device) -> "ImageSet":
        """Return a copy on `device`; all images must be in memory."""
        return ImageSet(self.images.to(device), self.labels.to(device))

    def subset(self, indices: Tensor) -> "ImageSet":
        """Return the subset with the given int64 indices, without copying images."""
        rows = indices if self.rows is None else self.rows[indices]
        hashes = self.all_image_hashes
        return ImageSet(
            self.held, self.all_labels, self.paths, rows, image_hashes=hashes, fit=self.fit
        )
