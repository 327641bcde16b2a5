"""In which precision to train."""

import torch


def automatic_precision(accelerator: str) -> str:
    """bf16-mixed where the device multiplies bf16 in hardware, which is faster by far; else 32-true."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        on_cpu = accelerator == "cpu" or (
            accelerator == "auto" and not torch.backends.mps.is_available()
        )
        fast = on_cpu and cpu_multiplies_bf16()
    return "bf16-mixed" if fast else "32-true"


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has AVX512_BF16: AMD from Zen 4, Intel from Sapphire Rapids.

    It then multiplies bf16 at twice the speed of 32 bit. Without it, bf16 takes 2 to 10 times as long as 32 bit
    (`benchmarks/precision.py`).
    """
    return torch.cpu._is_avx512_bf16_supported()
