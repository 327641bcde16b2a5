"""Import torchmetrics, which Lightning needs, without the packages of metrics we do not use."""

import sys

from lightning_utilities.core import imports

# For metrics of audio, text and generated images, and for plots.
UNUSED = ("matplotlib", "scipy", "torchvision", "transformers")


def import_torchmetrics() -> None:
    """Import torchmetrics while these packages look as if they were not installed.

    It would import all of them, which takes longer than PyTorch (`benchmarks/cold_start.py`).
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
