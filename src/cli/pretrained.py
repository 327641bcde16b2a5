"""Take settings from the trained network that `--model.init_from` names."""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from src.config import ViTConfig
from src.errors import InputError
from src.runs.checkpoint import Checkpoint
from src.runs.directory import find_pretrained
from src.runs.weights_file import is_weights_file

# The fields of ViTConfig that determine the shapes or the meaning of the weights.
SHAPE = (
    "size",
    "width",
    "depth",
    "heads",
    "mlp_ratio",
    "pool",
    "positions",
    "stem_layers",
    "stem_width",
    "whiten",
)


def use_pretrained_shape(config: Namespace, flags: list[str]) -> None:
    """Set the shape and the image format of the network to those of `model.init_from`.

    The values replace those of the recipe. Flags can set a different image size, mean and standard
    deviation. Weights of other libraries have no such description, so nothing is changed.

    Args:
        config: the parsed configuration; changed in place.
        flags: command-line flags.

    Raises:
        InputError: a flag contradicts the trained network, or there is no such run.
    """
    source = config.model.init_args.get("init_from")
    checkpoint = _open(source) if source else None
    if not checkpoint or checkpoint.training.ensemble > 1:
        return
    network, images = checkpoint.network, checkpoint.dataset
    if not isinstance(network, ViTConfig):
        return
    given = {flag.removeprefix("--").split("=")[0].replace("init_args.", "") for flag in flags}
    fixed = {f"model.{name}": getattr(network, name) for name in SHAPE}
    fixed |= {"data.patch_size": images.patch_size, "data.channels": images.channels}
    defaults = {
        "data.image_size": images.image_size,
        "data.mean": list(images.mean),
        "data.std": list(images.std),
    }
    for key, value in (fixed | defaults).items():
        group, name = key.split(".")
        arguments: Any = config[group].init_args
        if name not in arguments:  # named datasets have a fixed image size
            continue
        if key not in given:
            arguments[name] = value
        elif key in fixed and arguments[name] != value:
            raise InputError(
                f"--{key} {arguments[name]} contradicts model.init_from {source}, whose network "
                f"has {name} {value}; omit the flag"
            )


def _open(source: str) -> Checkpoint | None:
    path = Path(find_pretrained(source)).expanduser()
    return Checkpoint.open(path) if path.suffix == ".ckpt" or is_weights_file(path) else None
