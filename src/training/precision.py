"""Choose the training precision for a device."""

import functools
import time

import torch

SIDE, ROUNDS = 512, 7  # of the matrix products that are timed; takes about 0.1 seconds


def automatic_precision(accelerator: str) -> str:
    """Return bf16-mixed if the device is faster in bf16 than in float32, otherwise 32-true."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        auto_is_cpu = accelerator == "auto" and not torch.backends.mps.is_available()
        bf16 = (accelerator == "cpu" or auto_is_cpu) and cpu_is_faster_in_bf16()
    return "bf16-mixed" if bf16 else "32-true"


@functools.cache
def cpu_is_faster_in_bf16() -> bool:
    """Return whether this CPU multiplies matrices faster in bf16 than in float32.

    CPUs without AVX512_BF16 are 2 to 10 times slower in bf16 (docs/speed.md). CPUs with it are
    timed: AMD Zen 4 and Intel CPUs with AMX are at least twice as fast in bf16, but Intel CPUs
    without AMX, which many virtual machines hide, are half as fast.
    """
    if not torch.cpu._is_avx512_bf16_supported():
        return False
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # CPU time of one thread does not depend on the load of the machine
    seconds = {
        dtype: min(_product_seconds(dtype) for _ in range(ROUNDS))
        for dtype in (torch.float32, torch.bfloat16)
    }
    torch.set_num_threads(threads)
    return seconds[torch.bfloat16] < seconds[torch.float32]


def _product_seconds(dtype: torch.dtype) -> float:
    matrix = torch.ones(SIDE, SIDE, dtype=dtype)
    start = time.thread_time()
    matrix @ matrix
    return time.thread_time() - start
