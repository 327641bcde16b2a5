"""Everything random is a function of (seed, epoch) or (seed, epoch, step), never of what happened before."""

import numpy as np
import torch
from torch import Tensor


def fold_in(*numbers: int) -> int:
    """Mix a seed with an epoch, step or rank into one 63-bit seed: the same numbers always give the same seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


class Draw:
    """Random numbers for each of B samples, from one generator and on its device."""

    def __init__(self, size: int, generator: torch.Generator):
        self.size = size
        self.generator = generator
        self.device = generator.device

    def uniform(self, low: float | Tensor, high: float | Tensor) -> Tensor:
        """float32 [B], uniform in [low, high)."""
        return low + (high - low) * torch.rand(
            self.size, generator=self.generator, device=self.device
        )

    def integers(self, low: int, high: int) -> Tensor:
        """int64 [B], uniform in low..high, both included."""
        return torch.randint(
            low, high + 1, (self.size,), generator=self.generator, device=self.device
        )

    def permutation(self, size: int) -> Tensor:
        """int64 [size]: 0..size-1 in random order."""
        return torch.randperm(size, generator=self.generator, device=self.device)

    def coin(self, probability: float = 0.5) -> Tensor:
        """bool [B], True with the probability."""
        return self.uniform(0, 1) < probability
