"""Everything random is a function of (seed, epoch) or (seed, epoch, step), never of what happened before."""

import numpy as np


def fold_in(*numbers: int) -> int:
    """Mix a seed with an epoch, step or rank into one 63-bit seed: the same numbers always give the same seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1
