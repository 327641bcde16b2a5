"""The LightningModules: steps, metrics, optimizer and schedule.

Lightning calls, in this order (capitalized names are the callbacks in this folder):

    on_train_start                  length of the schedule
    for every epoch:
        on_train_epoch_start        start the clock
        for every batch:
            on_train_batch_start    seed from (seed, epoch, batch, rank); learning rate
            training_step           loss and accuracy
            on_before_backward      SaveCheckpoints: record the loss
            on_before_optimizer_step  Norms: gradient norm; then clipping
            optimizer_step          step, then the moving average of the weights
            on_train_batch_end      StopOnSignal; Norms: update norm; SaveCheckpoints: last.ckpt
        validation_step ...         loss and accuracy, of the averaged weights if any
        on_train_epoch_end          metrics; then EpochLog; SaveCheckpoints: best.ckpt, last.ckpt

Nothing in a step waits for the device, so the host can run ahead. Values are read back every
`trainer.log_every_n_steps` steps and at the end of an epoch.
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
from src.errors import InputError, one_line
from src.models.build import build_network
from src.models.vit import VisionTransformer
from src.randomness import fold_in
from src.runs.checkpoint import FORMAT, Checkpoint, describe
from src.training.optim import build_optimizer, learning_rate
from src.training.processes import check_strategy, mean_over_processes
from src.training.running_mean import RunningMean
from src.transforms.patchify import normalize

print_once = rank_zero_only(print)
Batch = Sequence[Tensor]  # inputs and labels


class Classifier(LightningModule):
    """Train a network to classify images; use a subclass, `ViT` or `CNN`.

    Batches are pairs (inputs, labels). Inputs are uint8 images [B, C, H, W], which are normalized
    here, normalized images, or patches [B, N, P*P*C]. Labels are int64 [B], or probabilities
    [B, K].

    Args:
        dataset: the images to classify.
        config: architecture and training settings.
    """

    kind: ClassVar[str]  # of the network, as a checkpoint names it

    def __init__(self, dataset: DatasetInfo | dict[str, Any], config: Any):
        super().__init__()
        self.dataset = dataset if isinstance(dataset, DatasetInfo) else DatasetInfo(**dataset)
        self.config: TrainingConfig = config  # one object describes the network as well
        self.network_config: NetworkConfig = config
        self.hparams.update(describe(self.dataset, config, config))
        self.net = build_network(config, self.dataset, config.ensemble)
        self.ema = copy.deepcopy(self.net).requires_grad_(False) if config.ema_decay else None
        if config.compile:
            self.net.compile()
        accuracy = MulticlassAccuracy(
            len(self.dataset.classes), average="micro", validate_args=False
        )
        self.train_loss, self.train_accuracy = RunningMean(), accuracy
        # Persistent, so that a checkpoint within an epoch carries its counts.
        self.train_loss.persistent(True)
        self.train_accuracy.persistent(True)
        self.eval_loss, self.eval_accuracy = RunningMean(), accuracy.clone()
        self.total_steps: float | None = None  # of the schedule, once training starts or resumes

    @property
    def eval_net(self) -> nn.Module:
        """The network to validate, test and predict with: the averaged one if there is one."""
        return self.ema or self.net

    def forward(self, inputs: Tensor | Batch) -> Tensor:
        """Inputs, or a batch that starts with them -> logits [B, K]"""
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
        """Return the model of a checkpoint written by `train.py` or any Trainer.

        Args:
            checkpoint_path: file of the checkpoint; no code in it is run.
            map_location: device of the weights.
            changes: hyperparameters to replace, for example `lr`; not those of the network.

        Raises:
            InputError: the file cannot be opened, or holds another kind of network.
        """
        checkpoint = Checkpoint.open(checkpoint_path)
        if checkpoint.network.kind != cls.kind:
            raise InputError(
                f"{checkpoint_path}: a checkpoint of a {checkpoint.network.kind}, not of a "
                f"{cls.kind}; load it with the class that wrote it"
            )
        checkpoint.build_network()  # refuses a network that does not fit its weights
        hparams = to_primitives(checkpoint.network) | to_primitives(checkpoint.training)
        try:
            model = cls(checkpoint.dataset, **hparams | changes)
            model.load_state_dict(checkpoint.content["state_dict"])
        except (TypeError, RuntimeError) as error:
            raise InputError(
                f"{checkpoint_path}: does not fit a {cls.__name__} with these arguments "
                f"({one_line(error)}); change only training settings"
            ) from None
        return model.to(map_location)

    def on_fit_start(self) -> None:
        check_strategy(self.trainer)
        # `save_hyperparameters` would do this, but it does not see arguments passed on as **kwargs.
        for logger in self.trainer.loggers if self.trainer.enable_autolog_hparams else ():
            logger.log_hyperparams(dict(self.hparams))

    # Training -------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        if not math.isfinite(self.trainer.num_training_batches):
            raise InputError(
                "the schedule counts epochs, but the DataLoader has no length; set "
                "limit_train_batches"
            )
        accumulated = self.trainer.accumulate_grad_batches
        steps = math.ceil(self.trainer.num_training_batches / accumulated)
        limits = (steps * (self.trainer.max_epochs or -1), self.trainer.max_steps)  # -1: no limit
        before = self.total_steps
        self.total_steps = min((n for n in limits if n >= 0), default=math.inf)
        config = self.config
        if config.warmup_steps is None:
            self.warmup_steps = round(steps * config.warmup_epochs)
        else:
            self.warmup_steps = config.warmup_steps
        if self.warmup_steps >= self.total_steps:
            print_once(
                f"note: the warm-up has {self.warmup_steps} steps, the training "
                f"{self.total_steps}, so the learning rate never reaches {config.lr:g}; lower "
                "model.warmup_steps or model.warmup_epochs"
            )
        if before not in (None, self.total_steps):
            print_once(
                f"the schedule had {before} steps, now has {self.total_steps}; it goes on at step "
                f"{self.global_step}"
            )
        # Lightning skips this hook when it resumes within an epoch.
        self.on_train_epoch_start()

    def on_train_epoch_start(self) -> None:
        self.epoch_start, self.epoch_images = time.perf_counter(), 0

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed everything random in this step, and set the learning rate."""
        config = self.config
        seed = fold_in(config.seed, self.current_epoch, batch_idx, self.global_rank, 1)
        torch.manual_seed(seed)
        self.lr_now = learning_rate(
            self.global_step, self.total_steps or 0, self.warmup_steps, config.lr, config.min_lr
        )
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.lr_now

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        inputs, targets = self._network_input(batch), batch[1]
        logits = self.net(inputs)
        loss = F.cross_entropy(logits, targets, label_smoothing=self.config.label_smoothing)
        self.train_loss.update(loss.detach(), len(inputs))
        self.train_accuracy.update(logits.detach(), _labels(targets))
        self.epoch_images += len(inputs)
        self.step_loss = loss.detach()
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip; Lightning's own refuses fused optimizers under bf16-mixed, which need no scaler."""
        if gradient_clip_val and gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(self.net.parameters(), gradient_clip_val)
        elif gradient_clip_val:
            nn.utils.clip_grad_norm_(self.net.parameters(), gradient_clip_val)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step and average, so that a checkpoint written after the step has both or neither."""
        super().optimizer_step(*args, **kwargs)
        if not self.ema:
            return
        # Warm-up of the average: a long memory would keep the random start.
        steps = self.global_step + 1
        decay = min(self.config.ema_decay, (1 + steps) / (10 + steps))
        averages: list[Tensor] = list(self.ema.parameters())
        weights: list[Tensor] = list(self.net.parameters())
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1 - decay)
            for average, now in zip(self.ema.buffers(), self.net.buffers(), strict=True):
                average.copy_(now)  # batch norm's statistics are averages already

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        # As a tensor on the host: Lightning would copy a float to the device.
        self.log("learning_rate", torch.tensor(self.lr_now))
        if lightning_loop.is_logging_step(self.trainer):
            loss = mean_over_processes(self.trainer, self.step_loss)
            has_bar = self.trainer.progress_bar_callback is not None
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

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the logits, [B, K], for callbacks."""
        logits, targets = self(batch), batch[1]
        self.eval_loss.update(F.cross_entropy(logits.float(), targets), len(targets))
        self.eval_accuracy.update(logits, _labels(targets))
        return logits

    test_step = validation_step

    def predict_step(self, batch: Tensor | Batch, batch_idx: int) -> Tensor:
        """Inputs, or a batch that starts with them -> probabilities, float32 [B, K]"""
        return self(batch).float().softmax(dim=1)

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _log_evaluation(self, split: str) -> None:
        metrics = {
            f"{split}_loss": self.eval_loss.compute(),
            f"{split}_accuracy": self.eval_accuracy.compute(),
        }
        self.log_dict(metrics, sync_dist=True)
        self.eval_loss.reset()
        self.eval_accuracy.reset()

    # Checkpoint -----------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["format"] = FORMAT
        checkpoint["total_steps"] = self.total_steps
        if self.trainer.world_size > 1:  # the state dict has only the first process's counts
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, _counts(self.state_dict()))
            keys = gathered[0].keys()
            checkpoint["counts"] = {
                k: torch.stack([counts[k] for counts in gathered]) for k in keys
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the counts of the epoch, also on another number of processes."""
        self.total_steps, state = checkpoint["total_steps"], checkpoint["state_dict"]
        counts = checkpoint.get("counts") or {k: v[None] for k, v in _counts(state).items()}
        for key, values in counts.items():
            state[key] = values[self.global_rank :: self.trainer.world_size].sum(0)


class ViT(Classifier):
    """A Vision Transformer.

    Args:
        dataset: `info` of a data module, a `DatasetInfo`, or a dict of its arguments.
        init_from: pre-trained weights to start from: `torchvision:vit_b_16`, a state dict of
            torchvision or timm (`.pth`, `.safetensors`), or a checkpoint or run of this program.
            The head stays new.
        freeze: `encoder` trains only the head.
        settings: those of `ViTHyperparameters`.
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
                "model.init_from and model.freeze are for a single network; set model.ensemble 1"
            )
        self.init_from = init_from
        self.initialized = False
        self.freeze_encoder = freeze == "encoder"
        if self.freeze_encoder:
            assert isinstance(self.net, VisionTransformer)
            self.net.requires_grad_(False)
            self.net.embed.eval()  # or batch norm in a stem would update its statistics
            self.net.head.requires_grad_(True)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.init_from and not self.initialized:
            raise InputError(
                f"model.init_from {self.init_from}: not loaded; call "
                "src.extras.weights.load_encoder.initialize(model) before fit"
            )


class CNN(Classifier):
    """A small convolutional network, the baseline; it reads images (`data.patch_size: null`).

    Args:
        dataset: see `ViT`.
        settings: those of `CNNHyperparameters`.
    """

    kind = CNNHyperparameters.kind

    def __init__(self, dataset: Any, **settings: Any):
        super().__init__(dataset, CNNHyperparameters(**settings))


def _labels(targets: Tensor) -> Tensor:
    """Return the labels [B]; of soft targets [B, K], such as MixUp's, the heaviest class."""
    return targets if targets.ndim == 1 else targets.argmax(dim=1)


def _counts(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what the metrics of the current epoch have counted."""
    prefixes = ("train_loss.", "train_accuracy.")
    return {key: value.cpu() for key, value in state.items() if key.startswith(prefixes)}
