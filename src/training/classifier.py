"""LightningModules: training and evaluation steps, metrics, optimizer and schedule.

Lightning calls the hooks in this order (capitalized names are callbacks in this folder):

    on_train_start                  compute the length of the schedule
    for every epoch:
        on_train_epoch_start        start the clock
        for every batch:
            on_train_batch_start    seed from (seed, epoch, batch, rank); set the learning rate
            training_step           compute the loss and update the metrics
            on_before_backward      SaveCheckpoints: record the loss
            configure_gradient_clipping  log the gradient norm; then clip
            optimizer_step          update the weights, then their moving average
            on_train_batch_end      StopOnSignal; SaveCheckpoints: last.ckpt
        validation_step ...         evaluate `eval_net`; SaveCheckpoints: best.ckpt
        on_train_epoch_end          log metrics; EpochLog; StopEarly; SaveCheckpoints: last.ckpt

Losses are read every `trainer.log_every_n_steps` steps, before each checkpoint, and at the end of
each epoch. All other steps do not wait for the device, so the host can run ahead.
"""

import copy
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from src import lightning_loop
from src.config import (
    CNNHyperparameters,
    DatasetInfo,
    NetworkConfig,
    TrainingConfig,
    ViTHyperparameters,
    to_primitives,
)
from src.errors import InputError
from src.models.build import build_network
from src.models.vit import VisionTransformer
from src.randomness import fold_in
from src.runs.checkpoint import FORMAT, Checkpoint, describe
from src.training.calibration import Temperature
from src.training.class_counts import ClassCounts, balanced_accuracy, class_scores
from src.training.loggers import log_hyperparameters
from src.training.loss import cross_entropy
from src.training.optim import build_optimizer, learning_rate
from src.training.processes import check_strategy, mean_over_processes
from src.training.running_mean import RunningMean
from src.transforms.patchify import normalize

print_once = rank_zero_only(print)
Batch = Sequence[Tensor]  # inputs, labels and, in training, optional weights of the images


class Classifier(LightningModule):
    """Base class for image classifiers; subclassed by `ViT` and `CNN`.

    Batches are pairs (inputs, labels). Inputs are uint8 images [B, C, H, W], which this module
    normalizes, normalized float images of the same shape, or patches [B, N, P*P*C]. Labels are
    int64 [B], or probabilities [B, K]. In training, a third tensor weights the losses, float32 [B].

    Args:
        dataset: description of the dataset.
        config: architecture and training settings.
    """

    kind: ClassVar[str]  # network type, as stored in checkpoints

    def __init__(self, dataset: DatasetInfo | dict[str, Any], config: Any):
        super().__init__()
        self.dataset = dataset if isinstance(dataset, DatasetInfo) else DatasetInfo(**dataset)
        self.config: TrainingConfig = config  # both configs are the same object
        self.network_config: NetworkConfig = config
        self.hparams.update(describe(self.dataset, config, config))
        self.net = build_network(config, self.dataset, config.ensemble)
        self.ema = copy.deepcopy(self.net).requires_grad_(False) if config.ema_decay else None
        if config.compile:
            self.net.compile()
        classes = len(self.dataset.classes)
        self.train_loss = RunningMean()
        self.train_accuracy = MulticlassAccuracy(classes, average="micro", validate_args=False)
        # Persistent, so that checkpoints written within an epoch include the metric counts.
        self.train_loss.persistent(True)
        self.train_accuracy.persistent(True)
        self.eval_loss, self.eval_counts = RunningMean(), ClassCounts(classes)
        self.class_scores: dict[str, list[float]] = {}  # of the last evaluation
        self.calibration, self.temperature = Temperature(), 1.0
        self.total_steps: float | None = None  # length of the schedule; set when training starts

    @property
    def eval_net(self) -> nn.Module:
        """The network for validation, testing and prediction: the averaged one, if any."""
        return self.ema or self.net

    def forward(self, inputs: Tensor | Batch) -> Tensor:
        """Return logits [B, K] for inputs or for a batch (inputs, ...)."""
        # `.forward` skips the compiled call, which would recompile for every evaluation batch size.
        return self.eval_net.forward(self._network_input(inputs))

    def _network_input(self, batch: Tensor | Batch) -> Tensor:
        inputs = batch if isinstance(batch, Tensor) else batch[0]
        if inputs.dtype == torch.uint8:
            inputs = normalize(inputs, self.dataset.mean, self.dataset.std)
        return inputs.to(self.dtype)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: str = "cpu", **changes: Any
    ) -> Self:
        """Load a model from a checkpoint written by `train.py` or any Trainer.

        Args:
            checkpoint_path: checkpoint file; loading it never executes code.
            map_location: device to load the weights to.
            changes: training hyperparameters to override, for example `lr`. Changes that need
                other weights (`ensemble`, or turning `ema_decay` on or off) are errors.

        Raises:
            InputError: the file cannot be opened, or contains a different type of network.
        """
        checkpoint = Checkpoint.open(checkpoint_path)
        if checkpoint.network.kind != cls.kind:
            raise InputError(
                f"{checkpoint_path}: expected a {cls.kind} checkpoint, got a "
                f"{checkpoint.network.kind} checkpoint; load it with the class that wrote it"
            )
        checkpoint.build_network()  # raises if weights and architecture do not match
        hparams = to_primitives(checkpoint.network) | to_primitives(checkpoint.training)
        model = cls(checkpoint.dataset, **hparams | changes)
        model.load_state_dict(checkpoint.content["state_dict"])
        model.temperature = checkpoint.temperature
        return model.to(map_location)

    def on_fit_start(self) -> None:
        check_strategy(self.trainer)
        # `save_hyperparameters` would do this, but it misses arguments passed through **kwargs.
        log_hyperparameters(self.trainer, dict(self.hparams))

    # Training -------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        trainer, config = self.trainer, self.config
        if not math.isfinite(trainer.num_training_batches):
            raise InputError(
                "the learning rate schedule needs the number of batches per epoch, but the "
                "DataLoader has no length; set limit_train_batches"
            )
        before, self.total_steps = self.total_steps, trainer.estimated_stepping_batches
        steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        by_epochs = round(steps * config.warmup_epochs)
        self.warmup_steps = by_epochs if config.warmup_steps is None else config.warmup_steps
        if before not in (None, self.total_steps):
            print_once(
                f"the schedule had {before} steps and now has {self.total_steps}; it continues at "
                f"step {self.global_step}"
            )
        # Lightning does not call this hook when it resumes within an epoch.
        self.on_train_epoch_start()

    def on_train_epoch_start(self) -> None:
        self.epoch_start, self.epoch_images = time.perf_counter(), 0

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the random number generators and set the learning rate for this step."""
        config = self.config
        torch.manual_seed(fold_in(config.seed, self.current_epoch, batch_idx, self.global_rank, 1))
        self.lr_now = learning_rate(
            self.global_step,
            self.total_steps or 0,
            self.warmup_steps,
            config.lr,
            config.min_lr,
            config.lr_decay,
        )
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.lr_now

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        inputs, targets = self._network_input(batch), batch[1]
        logits = self.net(inputs)
        loss = cross_entropy(logits, targets, self.config.label_smoothing, *batch[2:])
        self.step_loss = loss.detach()
        self.train_loss.update(self.step_loss, len(inputs))
        self.train_accuracy.update(logits.detach(), _labels(targets))
        self.epoch_images += len(inputs)
        # Lightning divides all losses by `accumulated`, even in a smaller last group of batches.
        accumulated = self.trainer.accumulate_grad_batches
        remainder = self.trainer.num_training_batches % accumulated
        if remainder and batch_idx >= self.trainer.num_training_batches - remainder:
            loss = loss * (accumulated / remainder)
        return loss

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Log the gradient norm, then clip the gradients.

        Lightning's implementation rejects fused optimizers with bf16-mixed, although bf16 needs no
        gradient scaler.
        """
        if lightning_loop.is_logging_step(self.trainer):
            gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
            self.log("gradient_norm", nn.utils.get_total_norm(gradients))
        if gradient_clip_val and gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(self.net.parameters(), gradient_clip_val)
        elif gradient_clip_val:
            nn.utils.clip_grad_norm_(self.net.parameters(), gradient_clip_val)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update the weights and their average together, so that checkpoints are consistent."""
        super().optimizer_step(*args, **kwargs)
        if not self.ema:
            return
        # Start with a smaller decay; otherwise the average would retain the random initial weights.
        steps = self.global_step + 1
        decay = min(self.config.ema_decay, (1 + steps) / (10 + steps))
        averages: list[Tensor] = list(self.ema.parameters())
        weights: list[Tensor] = list(self.net.parameters())
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1 - decay)
            for average, now in zip(self.ema.buffers(), self.net.buffers(), strict=True):
                average.copy_(now)  # batch-norm statistics are already averages

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        # Log a CPU tensor, because Lightning would copy a float to the device.
        self.log("learning_rate", torch.tensor(self.lr_now))
        if lightning_loop.is_logging_step(self.trainer):
            has_bar = self.trainer.progress_bar_callback is not None
            loss = mean_over_processes(self.trainer, self.step_loss)
            self.log("train_loss_step", loss.cpu(), prog_bar=has_bar)

    def on_train_epoch_end(self) -> None:
        seconds = time.perf_counter() - self.epoch_start
        metrics: dict[str, Any] = {
            "train_loss": self.train_loss.compute(),
            "train_accuracy": self.train_accuracy.compute(),
            "images_per_second": self.epoch_images * self.trainer.world_size / seconds,
        }
        self.log_dict(metrics, sync_dist=True)
        self.train_loss.reset()
        self.train_accuracy.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.net, self.config)

    # Evaluation -----------------------------------------------------------------------------------

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the logits [B, K] for use in callbacks."""
        logits, targets = self(batch), batch[1]
        self.eval_loss.update(F.cross_entropy(logits.float(), targets), len(targets))
        self.eval_counts.update(logits.argmax(dim=1), _labels(targets))
        return logits

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self.test_step(batch, batch_idx)
        self.calibration.update(logits, batch[1])
        return logits

    def predict_step(self, batch: Tensor | Batch, batch_idx: int) -> Tensor:
        """Return probabilities, float32 [B, K], for inputs or for a batch (inputs, ...)."""
        return self.probabilities(self(batch))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the calibrated probabilities, float32 [B, K], of logits [B, K]."""
        return (logits.float() / self.temperature).softmax(dim=1)

    def on_validation_epoch_end(self) -> None:
        self.temperature = self.calibration.compute()
        self.calibration.reset()
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _log_evaluation(self, split: str) -> None:
        counts = images, _, correct = self.eval_counts.compute()
        scores = class_scores(*counts)
        self.class_scores = {name: values.tolist() for name, values in scores.items()}
        metrics = {
            f"{split}_loss": self.eval_loss.compute(),
            f"{split}_accuracy": correct.sum() / images.sum(),
            f"{split}_balanced_accuracy": balanced_accuracy(scores),
        }
        self.log_dict(metrics, sync_dist=True)
        self.eval_loss.reset()
        self.eval_counts.reset()

    # Checkpoint -----------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(format=FORMAT, total_steps=self.total_steps, temperature=self.temperature)
        if self.trainer.world_size > 1:  # the state dict contains only the counts of rank 0
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, _counts(self.state_dict()))
            keys = gathered[0].keys()
            checkpoint["counts"] = {
                k: torch.stack([counts[k] for counts in gathered]) for k in keys
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the metric counts of the epoch, even with a different number of processes."""
        self.total_steps, state = checkpoint["total_steps"], checkpoint["state_dict"]
        self.temperature = checkpoint.get("temperature", 1.0)
        counts = checkpoint.get("counts") or {k: v[None] for k, v in _counts(state).items()}
        for key, values in counts.items():
            state[key] = values[self.global_rank :: self.trainer.world_size].sum(0)


class ViT(Classifier):
    """A Vision Transformer.

    Args:
        dataset: a `DatasetInfo`, such as the `info` of a data module, or a dict of its fields.
        init_from: pretrained weights to start from: `torchvision:vit_b_16`, a torchvision or timm
            state dict (`.pth`, `.safetensors`), a checkpoint or run of this program, or the name of
            bundled weights. The head is not loaded. `train.py` takes the shape of the network from
            a checkpoint or a run.
        freeze: `encoder` to train only the head, or `none`.
        settings: fields of `ViTHyperparameters`.
    """

    kind = ViTHyperparameters.kind

    def __init__(
        self,
        dataset: Any,
        init_from: str | None = None,
        freeze: Literal["none", "encoder"] = "none",
        **settings: Any,
    ):
        super().__init__(dataset, ViTHyperparameters(**settings))
        if (init_from or freeze != "none") and self.config.ensemble > 1:
            raise InputError(
                "model.init_from and model.freeze need a single network; set model.ensemble to 1"
            )
        self.init_from = init_from
        self.initialized = False
        self.freeze_encoder = freeze == "encoder"
        if self.freeze_encoder:
            assert isinstance(self.net, VisionTransformer)
            self.net.requires_grad_(False)
            self.net.embed.eval()  # keeps batch norm in a stem from updating its statistics
            self.net.head.requires_grad_(True)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.init_from and not self.initialized:
            raise InputError(
                f"model.init_from {self.init_from}: the weights are not loaded; call "
                "src.extras.weights.load_encoder.initialize(model) before fit"
            )


class CNN(Classifier):
    """A small convolutional baseline that takes whole images (`data.patch_size: null`).

    Args:
        dataset: a `DatasetInfo`, or a dict of its fields.
        settings: fields of `CNNHyperparameters`.
    """

    kind = CNNHyperparameters.kind

    def __init__(self, dataset: Any, **settings: Any):
        super().__init__(dataset, CNNHyperparameters(**settings))


def _labels(targets: Tensor) -> Tensor:
    """Return the labels [B]; for soft targets [B, K] (MixUp, CutMix), the most probable class."""
    return targets if targets.ndim == 1 else targets.argmax(dim=1)


def _counts(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the metric counts of the current epoch."""
    prefixes = ("train_loss.", "train_accuracy.")
    return {key: value.cpu() for key, value in state.items() if key.startswith(prefixes)}
