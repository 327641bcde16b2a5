"""Choose the training precision for a device."""

import torch


def automatic_precision(accelerator: str) -> str:
    """Return bf16-mixed if the device supports bf16 in hardware, otherwise 32-true."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        auto_is_cpu = accelerator == "auto" and not torch.backends.mps.is_available()
        has_bf16 = (accelerator == "cpu" or auto_is_cpu) and cpu_has_bf16()
    return "bf16-mixed" if has_bf16 else "32-true"


def cpu_has_bf16() -> bool:
    """Return whether this CPU has AVX512_BF16 (AMD Zen 4, Intel Sapphire Rapids, or later).

    With AVX512_BF16, bf16 matrix products are twice as fast as float32; without it, they are 2 to
    10 times slower (docs/speed.md).
    """
    return torch.cpu._is_avx512_bf16_supported()
