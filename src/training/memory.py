"""Keep freed memory for later tensors instead of returning it to the operating system."""

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # constants in malloc.h of the GNU C library


def keep_freed_memory() -> None:
    """Make the C library keep the memory of freed tensors for later ones.

    By default, the GNU C library maps every block above 32 MiB separately and returns it to the
    operating system as soon as it is freed. The first access to each page of a new block is slow.
    With large batches, this can take a quarter of a training step on the CPU (docs/speed.md). The
    results do not change. Other C libraries keep their settings.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no `mallopt`
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)  # allocate every block on the heap
        mallopt(M_TRIM_THRESHOLD, -1)  # never shrink the heap
