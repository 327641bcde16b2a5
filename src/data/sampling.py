"""Validation split, training order (a function of seed and epoch) and in-memory batches."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from src import lightning_loop as loop
from src.data.image_set import ImageSet
from src.errors import InputError
from src.randomness import fold_in


def split_indices(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split int64 labels [N] into training and validation indices, stratified by class.

    Returns:
        Sorted int64 indices of the training images and of the validation images. Every class keeps
        at least one training image, and at least one image of every larger class is held out.

    Raises:
        InputError: every class has only one image.
    """
    generator = torch.Generator().manual_seed(seed)
    held_out = []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        order = members[torch.randperm(len(members), generator=generator)]
        count = min(max(round(fraction * len(members)), bool(fraction)), len(members) - 1)
        held_out.append(order[:count])
    if fraction and not any(map(len, held_out)):
        raise InputError(
            "no image can be held out for validation, because every class has only one; add images "
            "or set data.val_fraction to 0"
        )
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[torch.cat(held_out)] = True
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()


def split_fold(labels: Tensor, folds: int, fold: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split int64 labels [N] for cross-validation; each class is spread evenly over the folds.

    Returns:
        Sorted int64 indices of the other folds (training), and of fold number `fold` (validation).

    Raises:
        InputError: a class has only one image, or there are more folds than images.
    """
    counts = labels.bincount()
    if folds > len(labels) or (counts == 1).any():
        raise InputError(
            f"data.folds {folds}: every class needs two images and every fold one, but "
            f"there are {len(labels)} images, {int(counts.min())} in the smallest class; add images"
        )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = order[labels[order].argsort(stable=True)]
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[by_class[fold::folds]] = True
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()


Balance = Literal["none", "sampler", "sampler_sqrt", "loss", "loss_sqrt"]


def class_weights(labels: Tensor, balance: Balance) -> Tensor:
    """Weight each class by 1 / n, or 1 / sqrt(n) for `_sqrt`, where n is its number of images.

    Returns:
        float32 [K], where K - 1 is the highest label; the mean over all images is 1.
    """
    counts = labels.bincount().double()
    weights = counts.clamp(min=1) ** (-0.5 if balance.endswith("sqrt") else -1)
    return (weights * len(labels) / (weights @ counts)).float()


class TrainBatches:
    """Batch sampler whose order depends only on (seed, epoch), so that training can be resumed.

    Each iteration gets the epoch and the number of completed batches from the trainer. A resumed
    run therefore continues with the batch that would have come next. A smaller last batch is
    dropped.

    Args:
        size: number of training images.
        batch_size: number of images per batch on each device.
        seed: seed for shuffling.
        trainer: Lightning's Trainer, or a stub with the attributes that `src.lightning_loop` reads.
        weights: float32 [size]; images are drawn with replacement, with probabilities proportional
            to them. By default, every epoch is a permutation of the images.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        trainer: Any,
        weights: Tensor | None = None,
    ):
        self.size = size
        self.seed = seed
        self.trainer = trainer
        self.weights = weights
        share = size // trainer.world_size
        if not share:
            raise InputError(
                f"there are {size} training images for {trainer.world_size} devices; use fewer "
                "devices"
            )
        self.batch_size = min(batch_size, share)
        self.batches = share // self.batch_size

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Tensor]:
        trainer = self.trainer
        # With overfit_batches, all epochs use the same order.
        epoch = 0 if trainer.overfit_batches else loop.epochs_done(trainer)
        generator = torch.Generator().manual_seed(fold_in(self.seed, epoch))
        if self.weights is None:
            order = torch.randperm(self.size, generator=generator)
        else:
            order = torch.multinomial(
                self.weights, self.size, replacement=True, generator=generator
            )
        mine = order[trainer.global_rank :: trainer.world_size]
        batches = mine[: self.batches * self.batch_size].split(self.batch_size)
        return iter(batches[loop.batches_done(trainer) :])


Batches = TrainBatches | tuple[Tensor, ...]


class InMemoryBatches:
    """Serve batches of in-memory images by tensor indexing, without workers.

    Args:
        images: image set whose images are all in memory, on the host or on a device.
        batches: int64 [B] indices of each batch; copied to the images' device once per iteration.
    """

    def __init__(self, images: ImageSet, batches: Batches):
        self.images = images
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = list(self.batches)
        indices = torch.cat(batches).to(self.images.labels.device)
        sizes = [len(batch) for batch in batches]
        return map(self.images.__getitems__, indices.split(sizes))


class Share(DistributedSampler):
    """Sampler that assigns each image to exactly one process for evaluation.

    `DistributedSampler` itself repeats images until all processes have the same number. It is the
    base class because Lightning replaces other samplers. If there are fewer images than processes,
    every process evaluates all images.
    """

    def __init__(self, order: Sequence[int], rank: int, processes: int):
        self.images = order[rank::processes] if len(order) >= processes else order

    def __iter__(self) -> Iterator[int]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)
