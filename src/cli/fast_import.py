"""Import torchmetrics, which Lightning requires, without the dependencies of unused metrics."""

import sys

from lightning_utilities.core import imports

# Packages needed only by plots and by metrics for audio, text and generated images.
UNUSED = ("matplotlib", "scipy", "torchvision", "transformers")


def import_torchmetrics() -> None:
    """Import torchmetrics with the `UNUSED` packages hidden.

    Importing all of these packages takes longer than importing PyTorch
    (`benchmarks/cold_start.py`).
    """
    hidden = [name for name in UNUSED if name not in sys.modules]
    is_available = imports.RequirementCache.__bool__

    def is_used_and_available(requirement: imports.RequirementCache) -> bool:
        return not str(requirement.requirement).startswith(UNUSED) and is_available(requirement)

    imports.RequirementCache.__bool__ = is_used_and_available  # type: ignore
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore
    try:
        import torchmetrics  # noqa: F401
    finally:
        imports.RequirementCache.__bool__ = is_available  # type: ignore
        for name in hidden:
            del sys.modules[name]
        imports.package_available.cache_clear()
