"""Choose the training precision for a device."""

import functools
import time

import torch

SIDE, ROUNDS = 512, 7  # size and number of the timed matrix products; they take 0.04 seconds


def automatic_precision(accelerator: str) -> str:
    """Return bf16-mixed if the device is faster in bf16 than in float32, otherwise 32-true."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        use_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        auto_is_cpu = accelerator == "auto" and not torch.backends.mps.is_available()
        use_bf16 = (accelerator == "cpu" or auto_is_cpu) and cpu_is_faster_in_bf16()
    return "bf16-mixed" if use_bf16 else "32-true"


@functools.cache
def cpu_is_faster_in_bf16() -> bool:
    """Return whether this CPU multiplies matrices faster in bf16 than in float32.

    CPUs without AVX512_BF16 are 2.4 to 10 times slower in bf16 (docs/devices.md). The others are
    timed: AMD Zen 4 and Intel CPUs with AMX are at least twice as fast in bf16. Intel CPUs without
    AMX, and virtual machines that hide it, are about half as fast.
    """
    if not torch.cpu._is_avx512_bf16_supported():
        return False
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the CPU time of one thread depends little on other programs
    rounds = [
        (_product_seconds(torch.float32), _product_seconds(torch.bfloat16)) for _ in range(ROUNDS)
    ]
    torch.set_num_threads(threads)
    float32, bf16 = map(min, zip(*rounds, strict=True))
    return bf16 < float32


def _product_seconds(dtype: torch.dtype) -> float:
    matrix = torch.ones(SIDE, SIDE, dtype=dtype, device="cpu")
    start = time.thread_time()
    matrix @ matrix
    return time.thread_time() - start
