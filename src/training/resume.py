"""Check whether a run can be resumed from a checkpoint, and whether training is finished."""

import re
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from src import lightning_loop
from src.data.image_data import ImageDataModule
from src.errors import InputError
from src.runs.checkpoint import Checkpoint, describe
from src.runs.results import read_results
from src.training.checkpointing import epochs_waited
from src.training.classifier import Classifier
from src.training.trainer import Trainer

# Checkpoint fields that may change on resume, because they do not affect the trained weights.
MAY_DIFFER = (
    "dataset.root",
    "dataset.name",
    "network.mirror",
    "training.compile",
    "training.seed",  # compared in config.yaml
)

# Settings that may change on resume: they affect how long and where a run trains, not what it
# learns.
MAY_CHANGE = (
    "name",
    "runs",
    "patience",
    "checkpoint_every_n_steps",
    "pictures",
    "threads",
    "model.init_args.compile",
    "trainer.max_epochs",
    "trainer.max_time",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.limit_test_batches",
    "trainer.logger",
    "trainer.profiler",
    "trainer.plugins",
    "trainer.precision",
    "data.init_args.root",
    "data.init_args.workers",
    "data.init_args.on_device",
    "data.init_args.eval_batch_size",
    "data.init_args.memory_budget",
)


def check_resume(
    run: Path,
    checkpoint: Checkpoint,
    settings: dict[str, Any],
    model: Classifier,
    data: ImageDataModule,
    trainer: Trainer,
) -> None:
    """Check that the run can continue from the checkpoint and is not finished.

    Every process runs this check independently, before the process group is initialized. If
    training is finished but testing is not, configure `trainer` to skip training. If testing is
    also finished, print a message and exit with code 0.

    Raises:
        InputError: the settings have changed, or the checkpoint belongs to a different model.
    """
    _compare_settings(run, settings)
    _refuse_other_model(checkpoint, model, lightning_loop.state(trainer))
    saved = checkpoint.content["callbacks"]["SaveCheckpoints"]
    _keep_global_batch(saved["global_batch"], data, trainer)
    epochs = lightning_loop.saved_epochs(checkpoint.content)
    max_epochs, patience = settings["trainer"]["max_epochs"], settings["patience"]
    reason = _why_finished(checkpoint.content, epochs, max_epochs, patience)
    if not reason:
        return
    if read_results(run).get("epochs") == epochs:
        if trainer.is_global_zero:
            print(f"Nothing to do: {run} is finished. {reason}")
        raise SystemExit(0)
    lightning_loop.end_after(trainer, epochs)


def refuse_other_images(
    run: Path, checkpoint: Checkpoint, counts: dict[str, int], fingerprint: dict[str, str]
) -> None:
    """Refuse to resume with different images, because the validation split would change.

    Args:
        run: run directory.
        checkpoint: the checkpoint to resume from; without a fingerprint, only counts are compared.
        counts: number of training and validation images.
        fingerprint: hashes of these images, by split and class.
    """
    saved = checkpoint.content["callbacks"]["SaveCheckpoints"]
    before = saved.get("fingerprint", fingerprint)
    names = sorted(before.keys() | fingerprint.keys())
    changed = [name for name in names if before.get(name) != fingerprint.get(name)]
    if saved["images"] == counts and not changed:
        return
    was, now = (
        ", ".join(f"{count} {split}" for split, count in images.items())
        for images in (saved["images"], counts)
    )
    what = f"the number of images has changed (was {was}, now {now}"
    if was == now:
        what = f"image files have been renamed or replaced ({was}, as before"
    where = f"; changed: {', '.join(changed[:5])}{', ...' * (len(changed) > 5)}" if changed else ""
    raise InputError(f"{run}: {what}{where}); restore the images, or start a new run")


def _keep_global_batch(size: int, data: ImageDataModule, trainer: Trainer) -> None:
    """Split the run's batch across the current processes, to keep the data order and schedule."""
    if size == data.batch_size * trainer.world_size:
        return
    if size % trainer.world_size:
        raise InputError(
            f"trainer.devices: this run's batch of {size} images cannot be split evenly across "
            f"{trainer.world_size} processes; use a different number of devices"
        )
    data.batch_size = size // trainer.world_size
    if trainer.is_global_zero:
        print(
            f"the global batch size stays {size}: {data.batch_size} images on each of "
            f"{trainer.world_size} device(s)"
        )


def _compare_settings(run: Path, settings: dict[str, Any]) -> None:
    """Refuse changed settings that affect the result; print a note if `threads` has changed."""
    before = flatten(yaml.safe_load((run / "config.yaml").read_text()) or {})
    now = flatten(settings)
    changed = [
        f"{key.replace('init_args.', '')} (was {value}, now {now.get(key)})"
        for key, value in sorted(before.items())
        if value != now.get(key) and not key.startswith(MAY_CHANGE)
    ]
    if changed:
        raise InputError(
            f"{run}: cannot be resumed with different settings: {'; '.join(changed)}; start a new "
            "run instead"
        )
    if (saved := before.get("threads", "auto")) != now["threads"]:
        print(
            f"note: the number of threads was {saved} and is now {now['threads']}; the last "
            "digits of the results may differ from those of an uninterrupted run"
        )


def _refuse_other_model(checkpoint: Checkpoint, model: Classifier, loop: dict[str, Any]) -> None:
    """Refuse an incomplete checkpoint, or one from a different model.

    Args:
        checkpoint: the checkpoint to resume from.
        model: the model to train.
        loop: state of the training loop; the saved state must have the same structure.
    """
    path = checkpoint.path
    before = flatten(describe(checkpoint.dataset, checkpoint.network, checkpoint.training))
    now = flatten(describe(model.dataset, model.network_config, model.config))
    changed = [
        f"{key} (was {before.get(key)}, now {now.get(key)})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key not in MAY_DIFFER
    ]
    if changed:
        raise InputError(
            f"{path}: cannot be resumed because the model or the data has changed: "
            f"{'; '.join(changed)[:300]}; restore them, or start a new run"
        )
    try:
        fits = _is_complete(checkpoint.content, model, loop)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        fits = False
    if not fits:
        raise InputError(
            f"{path}: does not match this run's model, or is incomplete; resume from the run's "
            "other checkpoint"
        )


def _is_complete(content: dict[str, Any], model: Classifier, loop: dict[str, Any]) -> bool:
    saved = content["callbacks"]["SaveCheckpoints"]
    (optimizer_state,) = content["optimizer_states"]
    return (
        _structure(content["state_dict"]) == _structure(dict(model.state_dict()))
        and _structure(lightning_loop.saved_state(content)) == _structure(loop)
        and _optimizer_fits(optimizer_state, model.configure_optimizers())
        and isinstance(saved["validated"], dict)
        and isinstance(saved["images"], dict)
        and isinstance(saved.get("fingerprint", {}), dict)
        and type(saved["global_batch"]) is int
        and all(type(content[key]) is int for key in ("epoch", "global_step", "total_steps"))
        and bool(re.fullmatch(r"\d+(\.\d+)+\w*", content["pytorch-lightning_version"]))
    )


def _optimizer_fits(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the parameter groups and the shapes of the moments match.

    Saved groups may lack some options, because the options differ between PyTorch versions.
    """
    ours = optimizer.state_dict()["param_groups"]
    theirs = state["param_groups"]
    if len(ours) != len(theirs):
        return False
    for group, saved in zip(ours, theirs, strict=True):
        shared = {key: value for key, value in group.items() if key in saved}
        if saved["params"] != group["params"]:
            return False
        if _structure({key: saved[key] for key in shared}) != _structure(shared):
            return False
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return all(
        moment.shape in (parameters[index].shape, ())
        for index, moments in state["state"].items()
        for moment in moments.values()
        if isinstance(moment, Tensor)
    )


def _structure(tree: Any) -> Any:
    """Return the tree with tensors replaced by (shape, dtype) and other values by their types."""
    if isinstance(tree, dict):
        return {key: _structure(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_structure(value) for value in tree]
    return (tree.shape, tree.dtype) if isinstance(tree, Tensor) else type(tree)


def _why_finished(
    content: dict[str, Any], epochs: int, max_epochs: int, patience: int | None
) -> str | None:
    """Return why training is finished and how to continue it; None if it is not finished."""
    if epochs >= max_epochs:
        longer = f"--trainer.max_epochs {2 * epochs}"
        return f"It has trained for all {epochs} epochs; to train longer, add {longer}"
    waited = epochs_waited(content["callbacks"]["SaveCheckpoints"], epochs)
    if patience and waited >= patience:
        return (
            f"It stopped after {epochs} epochs, because validation accuracy had not improved for "
            f"{waited} epochs; to train longer, add --patience {2 * waited}"
        )
    return None


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested keys: {"a": {"b": 1}} becomes {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
