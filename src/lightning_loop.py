"""Access to undocumented attributes of Lightning's training loop (checked in Lightning 2.6.6).

No other module depends on them, so a new Lightning version can only break this one.
"""

from typing import Any

Trainer = Any  # Lightning's Trainer; the attributes used here are untyped


def epochs_done(trainer: Trainer) -> int:
    """Return the number of completed epochs."""
    return trainer.fit_loop.epoch_progress.current.processed


def batches_done(trainer: Trainer) -> int:
    """Return the number of batches of this epoch that were trained before the run was resumed."""
    loop = trainer.fit_loop
    progress = loop.epoch_progress.current
    within_epoch = progress.ready > progress.processed
    return loop.epoch_loop.batch_progress.current.processed if within_epoch else 0


def batch(trainer: Trainer) -> int:
    """Return the 1-based index of the current batch within its epoch."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def total_batches(trainer: Trainer) -> int:
    """Return the number of batches that this process has trained since the start of the run."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.processed


def is_logging_step(trainer: Trainer) -> bool:
    """Return whether the metrics of this step are logged (every `log_every_n_steps` steps)."""
    return trainer._logger_connector.should_update_logs


def can_stop_after(trainer: Trainer, batch_idx: int) -> bool:
    """Return whether a checkpoint written after this batch can be resumed exactly.

    The batch must complete an optimizer step. It must not be the last batch of the epoch, which
    has a checkpoint of its own, or precede a validation, which Lightning would skip on resume.
    """
    loop = trainer.fit_loop
    completes_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    validates = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
    is_last = batch_idx + 1 >= trainer.num_training_batches
    return completes_step and not is_last and not validates


def is_dry_run(trainer: Trainer) -> bool:
    """Return whether `fast_dev_run` is set."""
    return bool(trainer.fast_dev_run)


def callbacks(trainer: Trainer) -> list[Any]:
    """Return the trainer's callbacks."""
    return trainer.callbacks


def set_callbacks(trainer: Trainer, callbacks: list[Any]) -> None:
    """Replace the trainer's callbacks before it starts."""
    trainer.callbacks = callbacks


def saved_epochs(checkpoint: dict[str, Any]) -> int:
    """Return the number of completed epochs stored in a checkpoint."""
    return checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]


def end_after(trainer: Trainer, epochs: int) -> None:
    """Stop training after the given number of epochs."""
    trainer.fit_loop.max_epochs = epochs
