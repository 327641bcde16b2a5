"""A quicker start: torchmetrics, which Lightning imports, without the packages that only other metrics need."""

import contextlib
import sys

UNUSED = (
    "matplotlib",
    "scipy",
    "torchvision",
    "transformers",
)  # metrics of audio, text and generated images, plots


def import_torchmetrics() -> None:
    """Import torchmetrics before Lightning does.

    Left to itself it imports every package that one of its metrics could use, which takes longer than PyTorch
    (measured in `benchmarks/cold_start.py`). In a program of one's own, where they may be used, leave this out.
    """
    if "torchmetrics" not in sys.modules:
        with _hidden([name for name in UNUSED if name not in sys.modules]):
            import torchmetrics  # noqa: F401


@contextlib.contextmanager
def _hidden(packages: list[str]):
    """Within the block the packages seem not to be installed, to an import and to Lightning's way of asking."""
    from lightning_utilities.core.imports import RequirementCache, package_available

    usual = RequirementCache.__bool__
    RequirementCache.__bool__ = lambda cache: (
        not str(cache.requirement).startswith(tuple(packages)) and usual(cache)
    )
    sys.modules.update(dict.fromkeys(packages))  # None: an import raises ModuleNotFoundError
    try:
        yield
    finally:
        RequirementCache.__bool__ = usual
        for name in packages:
            del sys.modules[name]
        package_available.cache_clear()
