"""Random numbers that depend only on (seed, epoch) or (seed, epoch, step), not on earlier draws."""

import numpy as np
import torch
from torch import Tensor


def fold_in(*numbers: int) -> int:
    """Hash a seed and an epoch, step or rank into a 63-bit seed, identically on all machines."""
    sequence = np.random.SeedSequence(numbers)
    (state,) = sequence.generate_state(1, np.uint64)
    return int(state) >> 1


class Draw:
    """Draw separate random numbers for each sample of a batch.

    Args:
        size: batch size B.
        generator: random number generator; results are on its device.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size = size
        self.generator = generator
        self.device = generator.device

    def uniform(self, low: float | Tensor, high: float | Tensor) -> Tensor:
        """Return float32 [B], uniform in [low, high)."""
        return low + (high - low) * self.fractions()

    def fractions(self, *shape: int) -> Tensor:
        """Return float32 [B, *shape], uniform in [0, 1)."""
        return torch.rand(self.size, *shape, generator=self.generator, device=self.device)

    def integers(self, low: int, high: int) -> Tensor:
        """Return int64 [B], uniform in [low, high], including both ends."""
        shape = (self.size,)
        return torch.randint(low, high + 1, shape, generator=self.generator, device=self.device)

    def permutation(self, size: int) -> Tensor:
        """Return a random permutation of the numbers from 0 to size - 1, int64 [size]."""
        return torch.randperm(size, generator=self.generator, device=self.device)

    def coin(self, probability: float = 0.5) -> Tensor:
        """Return bool [B], True with the given probability."""
        return self.uniform(0, 1) < probability
