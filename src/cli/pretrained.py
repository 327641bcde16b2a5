"""Take settings from the trained network that `--model.init_from` names."""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from src.config import ViTConfig, to_primitives
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
    "whiten_pad",
)
IMAGES = ("patch_size", "channels", "image_size", "mean", "std")


def use_pretrained_shape(config: Namespace, flags: list[str]) -> None:
    """Set the shape and the image format of the network to those of `model.init_from`.

    The values replace those of the recipe, but not those of flags; `load_encoder` rejects flags
    that contradict the trained network. Weights of other libraries have no such description, so
    nothing is changed.

    Args:
        config: the parsed configuration; changed in place.
        flags: command-line flags.

    Raises:
        InputError: the checkpoint cannot be read.
    """
    source = config.model.init_args.get("init_from")
    path = Path(find_pretrained(source)).expanduser() if source else Path()
    if path.suffix != ".ckpt" and not is_weights_file(path):
        return
    checkpoint = Checkpoint.open(path)
    network = checkpoint.network
    if not isinstance(network, ViTConfig) or checkpoint.training.ensemble > 1:
        return
    given = {flag.removeprefix("--").split("=")[0].replace("init_args.", "") for flag in flags}
    values = {"model": to_primitives(network), "data": to_primitives(checkpoint.dataset)}
    for group, names in (("model", SHAPE), ("data", IMAGES)):
        arguments: Any = config[group].init_args
        for name in names:
            # Named datasets have a fixed image size.
            if name in arguments and f"{group}.{name}" not in given:
                arguments[name] = values[group][name]
