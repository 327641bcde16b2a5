"""What the program reads from Lightning's training loop, whose attributes are not part of its documented interface.

Every access to them stands here, so that a new Lightning version breaks one file. Checked in Lightning 2.6.6.
"""


def epochs_done(trainer) -> int:
    """Epochs that are trained to their end."""
    return trainer.fit_loop.epoch_progress.current.processed


def batches_done(trainer) -> int:
    """Batches of the running epoch that were trained before the run was resumed; 0 at the start of an epoch."""
    loop = trainer.fit_loop
    within = loop.epoch_progress.current.ready > loop.epoch_progress.current.processed
    return loop.epoch_loop.batch_progress.current.processed if within else 0


def batch(trainer) -> int:
    """The number of the current batch in its epoch, from 1."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def total_batches(trainer) -> int:
    """Batches trained by this process since the run began."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.processed


def is_logging_step(trainer) -> bool:
    """Whether what is logged in this training step is written: once in `log_every_n_steps`."""
    return trainer._logger_connector.should_update_logs


def can_stop_after(trainer, batch_idx: int) -> bool:
    """Whether a checkpoint after this batch can be resumed exactly.

    Only after a whole optimizer step that is not the epoch's last, since the epoch's own checkpoint follows at once,
    and that no validation follows, since Lightning would leave it out.
    """
    loop = trainer.fit_loop
    whole_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    validates = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
    return whole_step and batch_idx + 1 < trainer.num_training_batches and not validates


def state(trainer) -> dict:
    """What a checkpoint keeps of the loop, and an example of what a sound one looks like."""
    return trainer.fit_loop.state_dict()


def saved_state(checkpoint: dict) -> dict:
    """What `state` was when the checkpoint was written."""
    return checkpoint["loops"]["fit_loop"]


def saved_epochs(checkpoint: dict) -> int:
    """Epochs that a checkpoint's run has trained to their end."""
    return saved_state(checkpoint)["epoch_progress"]["current"]["processed"]


def end_after(trainer, epochs: int) -> None:
    """Train no further than so many epochs."""
    trainer.fit_loop.max_epochs = epochs
