"""What `--resume` means: whether a run can go on from a checkpoint, and whether anything is left to do."""

import re
from pathlib import Path

import torch
import yaml
from torch import Tensor

from src import lightning_loop as loop
from src.config import network_defaults
from src.errors import InputError
from src.runs.checkpoint import load_checkpoint
from src.runs.results import tested_epochs

# Of a checkpoint's hyperparameters: training knows none but the seed, which config.yaml has.
UNCONCERNED = ("dataset.root", "dataset.name", "dataset.strokes", "network.mirror", "seed")

# What may differ when a run is resumed: how long and how it runs, not what is learnt. All else must be as it was.
MAY_CHANGE = (
    *("config", "name", "resume", "runs", "patience", "checkpoint_every_n_steps", "pictures"),
    "model.init_args.compile",
    *(
        "trainer.max_epochs",
        "trainer.max_time",
        "trainer.enable_progress_bar",
        "trainer.log_every_n_steps",
    ),
    *(
        "trainer.accelerator",
        "trainer.devices",
        "trainer.num_nodes",
        "trainer.strategy",
        "trainer.limit_test_batches",
    ),
    *("trainer.logger", "trainer.profiler", "trainer.plugins", "trainer.precision"),
    *(
        "data.init_args.root",
        "data.init_args.workers",
        "data.init_args.on_device",
        "data.init_args.eval_batch_size",
        "data.init_args.memory_budget",
    ),
)


def take_up(run: Path, path: Path, settings: dict, module, data, trainer) -> dict[str, int] | None:
    """See that the run can go on from the checkpoint at `path`, and that there is something left to do.

    When all is trained but not yet tested, `trainer` is told to train nothing more. When that is done, too, this says
    so, and ends the program. Each process finds the same by itself, before they meet.

    Returns:
        How many images the run trains and validates with, for `refuse_other_images`; older checkpoints do not tell.

    Raises:
        InputError: the settings have changed, or the checkpoint is not one of this model.
    """
    _refuse_changes(run, settings)
    checkpoint = load_checkpoint(path)
    check_resumable(path, checkpoint, module, loop.state(trainer))
    kept = checkpoint["callbacks"]["Checkpoints"]
    _keep_global_batch(kept.get("global_batch"), data, trainer)
    epochs = loop.saved_epochs(checkpoint)
    why = _why_finished(checkpoint, epochs, settings["trainer"]["max_epochs"], settings["patience"])
    if why and tested_epochs(run) == epochs:
        if trainer.is_global_zero:
            print(f"Nothing to do: {run} is finished. {why}")
        raise SystemExit(0)
    if why:
        loop.end_after(trainer, epochs)
    return kept.get("images")


def refuse_other_images(run: Path, before: dict[str, int] | None, now: dict[str, int]) -> None:
    """With an image more or less, others are held out: some of those that the run has learned from would judge it."""
    if isinstance(before, dict) and before != now:
        was, is_ = (
            ", ".join(f"{count} {split}" for split, count in images.items())
            for images in (before, now)
        )
        raise InputError(
            f"{run}: its images have changed (was {was}, now {is_}); bring them back, or start a new run"
        )


def _keep_global_batch(size: int | None, data, trainer) -> None:
    """On another number of processes each takes another share of the same batch: order and schedule stay the same."""
    if size in (None, data.batch_size * trainer.world_size):
        return
    if size % trainer.world_size:
        among = f"cannot be divided among {trainer.world_size} processes"
        raise InputError(
            f"trainer.devices: a batch of this run has {size} images, which {among}; use another number"
        )
    data.batch_size = size // trainer.world_size
    if trainer.is_global_zero:
        print(
            f"the batch stays {size} images: {data.batch_size} on each of {trainer.world_size} device(s)"
        )


def _refuse_changes(run: Path, settings: dict) -> None:
    """Raise InputError when the settings would not continue the run but turn it into another one."""
    before, now = (
        flatten(yaml.safe_load((run / "config.yaml").read_text()) or {}),
        flatten(settings),
    )
    changed = [
        f"{key.replace('init_args.', '')} (was {value}, now {now.get(key)})"
        for key, value in sorted(before.items())
        if value != now.get(key)
        and not any(key == k or key.startswith(f"{k}.") for k in MAY_CHANGE)
    ]
    if changed:
        raise InputError(
            f"{run}: cannot be resumed with other settings: {'; '.join(changed)}; start a new run instead"
        )


def check_resumable(path: Path, checkpoint: dict, module, example: dict) -> None:
    """Raise InputError unless the checkpoint is one of this very model, and complete.

    Args:
        module: the LightningModule to be trained.
        example: `loop.state` of the trainer, which the checkpoint's must look like.
    """
    before, now = (flatten(dict(h)) for h in (checkpoint["hyper_parameters"], module.hparams))
    # An argument that the checkpoint is older than had what is its default now.
    before = flatten({"network": network_defaults(now["network.kind"])}) | before
    changed = [
        f"{key} (was {before.get(key)}, now {now.get(key)})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(UNCONCERNED)
    ]
    if changed:
        raise InputError(
            f"{path}: cannot be resumed, its model or data have changed: {'; '.join(changed)[:300]}; "
            "bring back what they were, or start a new run"
        )
    try:
        fits = (
            _like(checkpoint["state_dict"], module.state_dict())
            and _like(loop.saved_state(checkpoint), example)
            and _optimizer_fits(checkpoint["optimizer_states"], module.configure_optimizers())
            and isinstance(checkpoint["callbacks"]["Checkpoints"]["validated"], dict)
            and all(
                isinstance(checkpoint[key], int) for key in ("epoch", "global_step", "total_steps")
            )
            and re.fullmatch(r"\d+(\.\d+)+\w*", checkpoint["pytorch-lightning_version"])
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        fits = False
    if not fits:
        raise InputError(
            f"{path}: does not fit this run's model, or is incomplete; resume from its other checkpoint"
        )


def _optimizer_fits(states: list[dict], optimizer: torch.optim.Optimizer) -> bool:
    """Whether the groups hold the same parameters, and each moment has its parameter's shape.

    A group may have other settings than ours: another version of PyTorch brings keys of its own.
    """
    (state,) = states
    example = optimizer.state_dict()["param_groups"]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = [
        (m, parameters[i].shape) for i, kept in state["state"].items() for m in kept.values()
    ]
    return (
        [group["params"] for group in state["param_groups"]]
        == [group["params"] for group in example]
        and all(
            _like(group[key], value)
            for group, ours in zip(state["param_groups"], example, strict=True)
            for key, value in ours.items()
            if key in group
        )
        and all(m.shape in (shape, ()) for m, shape in moments if isinstance(m, Tensor))
    )


def _like(found, example) -> bool:
    """Whether two trees have the same keys, tensors of the same shape and type, and values of the same type."""
    if isinstance(example, dict):
        same = isinstance(found, dict) and found.keys() == example.keys()
        return same and all(_like(found[key], example[key]) for key in example)
    if isinstance(example, list):
        return (
            isinstance(found, list)
            and len(found) == len(example)
            and all(map(_like, found, example))
        )
    if isinstance(example, Tensor):
        return isinstance(found, Tensor) and (found.shape, found.dtype) == (
            example.shape,
            example.dtype,
        )
    return type(found) is type(example)


def _why_finished(
    checkpoint: dict, epochs: int, max_epochs: int, patience: int | None
) -> str | None:
    """Why there is nothing left to train, and the flag that trains longer; None if there is."""
    if epochs >= max_epochs:
        return f"All of its {epochs} epochs are trained; to train longer, add --trainer.max_epochs {2 * epochs}"
    stopping = [
        state for key, state in checkpoint["callbacks"].items() if key.startswith("EarlyStopping")
    ]
    waited = stopping[0]["wait_count"] if stopping else 0
    if patience and waited >= patience:
        without = f"the last {waited} without a better validation accuracy"
        return f"It stopped after {epochs} epochs, {without}; to train longer, add --patience {2 * waited}"
    return None


def flatten(tree: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat = {}
    for key, value in tree.items():
        flat |= (
            flatten(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return flat
