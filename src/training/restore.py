"""From a checkpoint to the model that can be trained, tested and predicted with again."""

from dataclasses import fields
from pathlib import Path

from src.config import FROM_DATA, Training
from src.errors import InputError
from src.inference.predictor import build_network
from src.runs.checkpoint import load_checkpoint


def restore(kind: type, path: str | Path, changes: dict):
    """The `kind`, ViT or CNN, that the checkpoint at `path` holds, with other hyperparameters where `changes` say so.

    Raises:
        InputError: the file cannot be opened, or is of another class or version of the program.
    """
    checkpoint = load_checkpoint(path)
    hparams = dict(checkpoint["hyper_parameters"])
    network, dataset = hparams.pop("network"), hparams.pop("dataset")
    if network["kind"] != kind.kind:
        raise InputError(
            f"{path}: holds a {network['kind']}, not a {kind.kind}; load it with its own class"
        )
    own = {key: value for key, value in network.items() if key not in ("kind", *FROM_DATA)}
    try:
        if unknown := hparams.keys() - {field.name for field in fields(Training)}:
            raise TypeError(f"unknown hyperparameters: {', '.join(sorted(unknown))}")
        build_network(
            checkpoint
        )  # without memory: a few bytes cannot declare a network that fills the machine
        model = kind(dataset, **own | hparams | changes)
        model.load_state_dict(checkpoint["state_dict"])
    except (InputError, TypeError, KeyError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: does not fit this version of {kind.__name__} ({reason})"
        ) from None
    return model
