"""Check whether a run can be resumed from a checkpoint, and whether training is finished."""

from pathlib import Path
from typing import Any

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
    training is finished but testing is not, print a note and configure `trainer` to skip
    training. If testing is also finished, print a message and exit with code 0.

    Raises:
        InputError: the settings have changed, or the checkpoint does not match the model.
    """
    _compare_settings(run, settings)
    _compare_descriptions(checkpoint, model)
    try:
        saved, epochs = _read_state(checkpoint.content, model)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise InputError(
            f"{checkpoint.path}: does not match this run's model, or is incomplete; resume from "
            "the run's other checkpoint"
        ) from None
    _keep_global_batch(saved["global_batch"], data, trainer)
    reason = _why_finished(saved, epochs, settings["trainer"]["max_epochs"], settings["patience"])
    if not reason:
        return
    if read_results(run).get("epochs") == epochs:
        if trainer.is_global_zero:
            print(f"Nothing to do: {run} is finished. {reason}")
        raise SystemExit(0)
    if trainer.is_global_zero:
        print(f"note: {run}: training is finished; only the test remains. {reason}")
    lightning_loop.end_after(trainer, epochs)


def _compare_descriptions(checkpoint: Checkpoint, model: Classifier) -> None:
    """Refuse a checkpoint with other settings than config.yaml, which may have been edited."""
    before = flatten(describe(checkpoint.dataset, checkpoint.network, checkpoint.training))
    now = flatten(describe(model.dataset, model.network_config, model.config))
    changed = [
        f"{key} (was {before.get(key)}, now {now.get(key)})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key not in MAY_DIFFER
    ]
    if changed:
        raise InputError(
            f"{checkpoint.path}: cannot be resumed because the model or the data has changed: "
            f"{'; '.join(changed)[:300]}; restore them, or start a new run"
        )


def _read_state(content: dict[str, Any], model: Classifier) -> tuple[dict[str, Any], int]:
    """Return the state of `SaveCheckpoints` and the number of completed epochs.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, IndexError: the checkpoint is incomplete,
            or has other weights.
    """
    if _shapes(content["state_dict"]) != _shapes(model.state_dict()):
        raise ValueError
    optimizer = model.configure_optimizers()
    optimizer.load_state_dict(content["optimizer_states"][0])
    for parameter, moments in optimizer.state.items():
        if any(moment.shape not in (parameter.shape, ()) for moment in moments.values()):
            raise ValueError
    saved = content["callbacks"]["SaveCheckpoints"]
    if not {"best", "improved_epoch", "fingerprint", "global_batch"} <= saved.keys():
        raise KeyError
    return saved, lightning_loop.saved_epochs(content)


def _shapes(state: dict[str, Tensor]) -> dict[str, Any]:
    return {name: (value.shape, value.dtype) for name, value in state.items()}


def refuse_other_images(run: Path, checkpoint: Checkpoint, fingerprint: dict[str, str]) -> None:
    """Refuse to resume with different images, because the validation split would change.

    Args:
        run: run directory.
        checkpoint: the checkpoint to resume from.
        fingerprint: hashes of the training and validation images, by split and class.
    """
    before = checkpoint.content["callbacks"]["SaveCheckpoints"]["fingerprint"]
    names = sorted(before.keys() | fingerprint.keys())
    changed = [name for name in names if before.get(name) != fingerprint.get(name)]
    if changed:
        raise InputError(
            f"{run}: images have been added, removed, renamed or replaced in "
            f"{', '.join(changed[:5])}{', ...' * (len(changed) > 5)}; restore the images, or start "
            "a new run"
        )


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


def _why_finished(
    saved: dict[str, Any], epochs: int, max_epochs: int, patience: int | None
) -> str | None:
    """Explain why training is finished and how to extend it; return None if it is not finished."""
    if epochs >= max_epochs:
        longer = f"--trainer.max_epochs {2 * epochs}"
        plural = "" if epochs == 1 else "s"
        return f"It has trained for {epochs} epoch{plural}; to train longer, add {longer}"
    waited = epochs_waited(saved, epochs)
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
