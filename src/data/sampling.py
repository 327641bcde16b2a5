"""Which images are held out, the order of the others (functions of seed and epoch), and batches of both."""

import torch
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from src import lightning_loop as loop
from src.data.folders import ImageSet
from src.errors import InputError
from src.randomness import fold_in


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
        raise InputError(
            f"data.val_fraction {fraction}: holds out not one of {len(labels)} images; {more}"
        )
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
            raise InputError(
                f"there are {size} training images for {trainer.world_size} devices; use fewer devices"
            )
        self.batch_size = min(batch_size, share)
        self.batches = share // self.batch_size

    def __len__(self) -> int:
        return self.batches

    def __iter__(self):
        epoch = (
            0 if self.trainer.overfit_batches else loop.epochs_done(self.trainer)
        )  # overfitting: always the same
        generator = torch.Generator().manual_seed(fold_in(self.seed, epoch))
        order = torch.randperm(self.size, generator=generator)
        mine = order[self.trainer.global_rank :: self.trainer.world_size]
        return iter(
            mine[: self.batches * self.batch_size].split(self.batch_size)[
                loop.batches_done(self.trainer) :
            ]
        )


class InMemoryBatches:
    """Batches of images that lie in one memory, each by one index: no worker, and no copy in a step.

    Args:
        images: a set all of whose images are decoded, on the host or on a device.
        batches: the indices of each batch, int64 [B]; as a DataLoader's `batch_sampler`. They are moved to the images
            whenever an iteration starts.
    """

    def __init__(self, images: ImageSet, batches):
        self.images, self.batches = images, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        batches = list(self.batches)
        indices = torch.cat(batches).to(self.images.labels.device)
        return map(self.images.__getitems__, indices.split([len(batch) for batch in batches]))


class Share(DistributedSampler):
    """The images that one of several processes evaluates, each image in one of them: counts add up to exact figures.

    PyTorch's own repeats images until all processes have the same number, and Lightning would put it in the place of
    any sampler of another kind. Where there are fewer images than processes, each evaluates all.
    """

    def __init__(self, size: int, rank: int, processes: int):
        self.images = range(rank, size, processes) if size >= processes else range(size)

    def __iter__(self):
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)
