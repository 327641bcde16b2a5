"""The LightningModules: what an epoch and a step do, what is measured, and which optimizer is used.

Lightning calls, in this order (`Checkpoints`, `EpochLog`, `Norms`, `Pictures` and `Stop` are the callbacks beside it):

    on_train_start                  length of the schedule
    for every epoch:
        on_train_epoch_start        the clock
        for every batch:
            on_train_batch_start    Pictures: the first batch;  seed from (seed, epoch, batch, rank); learning rate
            training_step           loss and counts
            on_before_backward      Checkpoints: keeps the loss, and ends a run in which one is not finite
            on_before_optimizer_step  Norms: of the gradient;  then it is clipped
            optimizer_step          step, then the average of the weights
            on_train_batch_end      Norms: of the update;  Stop;  Checkpoints: last.ckpt every so many steps;  curves
        validation_step ...         loss and counts, with the averaged weights where there are some
        on_train_epoch_end          metrics;  then EpochLog;  Checkpoints: best.ckpt, last.ckpt;  Pictures

Nothing in a step waits for the device, so that the host can prepare the steps to come: values are read back every
`trainer.log_every_n_steps` steps, and when an epoch ends.
"""

import copy
import math
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from src import lightning_loop as loop
from src.config import FROM_DATA, Training, complete_dataset, complete_network
from src.errors import InputError
from src.extras.weights.load_encoder import load_encoder
from src.models.build import build
from src.models.cnn import ConvNet
from src.models.vit import VisionTransformer
from src.randomness import fold_in
from src.runs.checkpoint import FORMAT
from src.training.arguments import takes_arguments_of
from src.training.batches import Batches
from src.training.optim import Muon, learning_rate, muon_groups, parameter_groups
from src.training.processes import check_strategy, mean_over_processes
from src.training.restore import restore
from src.training.running_mean import Mean

say = rank_zero_only(print)


class Classifier(LightningModule):
    """Trains a network to classify; use one of its subclasses, `ViT` or `CNN`.

    Args:
        dataset: the dataset in plain primitives; see `ViT`.
        arguments: those of the network that the dataset does not decide, and those of `Training`.
    """

    kind: str  # which network to build, a key of `NETWORKS`

    def __init__(self, dataset: dict, arguments: dict):
        super().__init__()
        names = {field.name for field in fields(Training)}
        training = Training(**{key: value for key, value in arguments.items() if key in names})
        dataset = complete_dataset(dataset)
        rest = {key: value for key, value in arguments.items() if key not in names}
        network = complete_network(self.kind, dataset, rest)
        hparams = asdict(training) | {"network": network, "dataset": dataset}
        del hparams["compile"]  # a run may be resumed with or without
        self.hparams.update(hparams)
        self.batches = Batches(dataset)
        self.net = build(network, training.ensemble)
        self.ema = copy.deepcopy(self.net).requires_grad_(False) if training.ema_decay else None
        if training.compile:
            self.net.compile()  # CUDA graphs ("reduce-overhead") are for small batches, says PyTorch's documentation
        accuracy = MulticlassAccuracy(len(dataset["classes"]), average="micro", validate_args=False)
        # Persistent: a checkpoint in the middle of an epoch carries what was counted so far.
        self.train_loss, self.train_accuracy = Mean(), accuracy
        self.train_loss.persistent(True)
        self.train_accuracy.persistent(True)
        self.eval_loss, self.eval_accuracy = Mean(), accuracy.clone()
        self.total_steps: int | float | None = (
            None  # of the schedule; known when training starts, or is resumed
        )

    @property
    def eval_net(self) -> nn.Module:
        """The network that is validated, tested and classified with: the averaged one where there is one."""
        return self.ema or self.net

    def forward(self, inputs: Tensor) -> Tensor:
        """uint8 or normalized images [B, C, H, W], or patches [B, N, P*P*C] -> logits [B, K]

        They may come as a batch of a DataLoader, with labels behind them.
        """
        # Past the compiled call: evaluation is another mode, with other batch sizes, and each would be compiled anew.
        return self.eval_net.forward(self.batches.inputs(inputs, self.dtype))

    @classmethod
    def load_from_checkpoint(
        cls, checkpoint_path: str | Path, map_location: str = "cpu", **changes
    ) -> Self:
        """The model of a checkpoint, written by `train.py` or any Trainer; nothing in the file is executed.

        Args:
            changes: hyperparameters to replace, for example `lr`; what shapes the network must stay.
        """
        return restore(cls, checkpoint_path, changes).to(map_location)

    def on_fit_start(self) -> None:
        """What `save_hyperparameters` would have loggers do; it does not know of arguments that are handed on."""
        check_strategy(self.trainer)
        for logger in self.trainer.loggers if self.trainer.enable_autolog_hparams else ():
            logger.log_hyperparams(dict(self.hparams))

    # Training ---------------------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        if not math.isfinite(self.trainer.num_training_batches):
            raise InputError(
                "the schedule counts epochs, and the DataLoader has no length: set limit_train_batches"
            )
        steps = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        limits = (
            steps * self.trainer.max_epochs,
            self.trainer.max_steps,
        )  # either is below 0 where there is none
        before, self.total_steps = (
            self.total_steps,
            min((n for n in limits if n >= 0), default=math.inf),
        )
        hp = self.hparams
        self.warmup_steps = (
            round(steps * hp.warmup_epochs) if hp.warmup_steps is None else hp.warmup_steps
        )
        if self.warmup_steps >= self.total_steps:
            why = f"the warm-up has {self.warmup_steps} steps, the training {self.total_steps}"
            say(
                f"note: the learning rate never reaches {hp.lr:g}: {why}; lower model.warmup_steps or _epochs"
            )
        if before not in (None, self.total_steps):
            say(
                f"the schedule had {before} steps, now has {self.total_steps}; it goes on at step {self.global_step}"
            )
        self.on_train_epoch_start()  # which Lightning leaves out when a run goes on in the middle of an epoch

    def on_train_epoch_start(self) -> None:
        self.epoch_start, self.epoch_images = time.perf_counter(), 0

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """All that is random in this step follows from (seed, epoch, step, rank); the learning rate from the step."""
        hp = self.hparams
        torch.manual_seed(fold_in(hp.seed, self.current_epoch, batch_idx, self.global_rank, 1))
        self.lr_now = learning_rate(
            self.global_step, self.total_steps, self.warmup_steps, hp.lr, hp.min_lr
        )
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.lr_now

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs = self.batches.inputs(batch, self.dtype)
        targets, labels = self.batches.targets(batch)
        logits = self.net(inputs)
        loss = F.cross_entropy(logits, targets, label_smoothing=self.hparams.label_smoothing)
        self.train_loss.update(loss.detach(), len(inputs))
        self.train_accuracy.update(logits.detach(), labels)
        self.epoch_images += len(inputs)
        self.step_loss = loss.detach()
        return loss

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
    ) -> None:
        # Not Lightning's own: it refuses fused optimizers under bf16-mixed, which need no scaler.
        if gradient_clip_val and gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(self.net.parameters(), gradient_clip_val)
        elif gradient_clip_val:
            nn.utils.clip_grad_norm_(self.net.parameters(), gradient_clip_val)

    def optimizer_step(self, *args, **kwargs) -> None:
        """Step and average as one: a checkpoint written after the step, by a callback, has both or neither."""
        super().optimizer_step(*args, **kwargs)
        if self.ema:
            # The warm-up of the average: with few steps behind it, a long memory would only keep the random start.
            steps = self.global_step + 1
            decay = min(self.hparams.ema_decay, (1 + steps) / (10 + steps))
            with torch.no_grad():
                torch._foreach_lerp_(
                    list(self.ema.parameters()), list(self.net.parameters()), 1 - decay
                )
                for average, now in zip(self.ema.buffers(), self.net.buffers(), strict=True):
                    average.copy_(now)  # batch norm's statistics are averages already

    def on_train_batch_end(self, outputs, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log(
            "learning_rate", torch.tensor(self.lr_now)
        )  # a number would be copied to the device
        if loop.is_logging_step(self.trainer):
            loss = mean_over_processes(self.trainer, self.step_loss)
            self.log(
                "train_loss_step",
                loss.cpu(),
                prog_bar=self.trainer.progress_bar_callback is not None,
            )

    def on_train_epoch_end(self) -> None:
        seconds = time.perf_counter() - self.epoch_start
        self.log_dict(
            {
                "train_loss": self.train_loss.compute(),
                "train_accuracy": self.train_accuracy.compute(),
                "images_per_second": self.epoch_images * self.trainer.world_size / seconds,
            },
            sync_dist=True,
        )
        self.train_loss.reset()
        self.train_accuracy.reset()

    # Evaluation -------------------------------------------------------------------------------------------------------

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """-> logits [B, K], for `Pictures`"""
        logits = self(batch)
        targets, labels = self.batches.targets(batch)
        self.eval_loss.update(F.cross_entropy(logits.float(), targets), len(labels))
        self.eval_accuracy.update(logits, labels)
        return logits

    test_step = validation_step

    def predict_step(self, batch: Tensor | list | tuple, batch_idx: int) -> Tensor:
        """Inputs, or a pair (inputs, labels) -> probabilities, float32 [B, K], as those of classify.py."""
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

    # Checkpoint and optimizer -----------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["format"] = FORMAT
        checkpoint["total_steps"] = self.total_steps
        if (
            self.trainer.world_size > 1
        ):  # the state dict has what the first process has counted alone
            everyones = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(everyones, _counts(self.state_dict()))
            checkpoint["counts"] = {
                key: torch.stack([counts[key] for counts in everyones]) for key in everyones[0]
            }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.total_steps, state = checkpoint["total_steps"], checkpoint["state_dict"]
        counts = checkpoint.get("counts") or {
            key: value[None] for key, value in _counts(state).items()
        }
        for (
            key,
            value,
        ) in counts.items():  # also for another number of processes than wrote it: none is lost
            state[key] = value[self.global_rank :: self.trainer.world_size].sum(0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        hp = self.hparams
        if hp.optimizer == "muon":
            return Muon(muon_groups(self.net, hp.weight_decay), lr=hp.lr, betas=(0.9, hp.beta2))
        groups = parameter_groups(self.net, hp.weight_decay)
        if hp.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=hp.lr, momentum=0.9, nesterov=True)
        kind = torch.optim.AdamW if hp.optimizer == "adamw" else torch.optim.Adam
        # Fused: one kernel for all weights. Not `capturable`: the host sets the rate, so no CUDA graph can hold a step.
        return kind(
            groups, lr=hp.lr, betas=(0.9, hp.beta2), fused=self.device.type in ("cpu", "cuda")
        )


@takes_arguments_of(VisionTransformer, Training, given=FROM_DATA)
class ViT(Classifier):
    """The Vision Transformer.

    Args:
        dataset: `description` of a data module, or a dict of your own: `classes` (names, or their number), `image_size`
            and `channels`, and where they apply `patch_size`, `name`, and `mean` and `std` of each channel (of images
            of 0 to 1; 0 and 1 unless given), by which uint8 images are normalized.
        init_from: start from pre-trained weights: `torchvision:vit_b_16`, a torchvision or timm state dict
            (`.pth`, `.safetensors`), or a checkpoint or run of ours; the head stays new.
        freeze: `encoder` trains the head alone.
    """

    kind = "vit"

    def __init__(
        self,
        dataset: dict,
        init_from: str | None = None,
        freeze: Literal["none", "encoder"] = "none",
        **arguments,
    ):
        super().__init__(dataset, arguments)
        if (init_from or freeze != "none") and self.hparams.ensemble > 1:
            raise InputError(
                "model.ensemble: init_from and freeze are for a single network; leave the ensemble out"
            )
        self.init_from = init_from
        if init_from:
            say(load_encoder(self.net, init_from))
            if self.ema:
                self.ema.load_state_dict(self.net.state_dict())
        if freeze == "encoder":
            say(
                f"the encoder is frozen{'' if init_from else ' as it was initialized: give --model.init_from, too'}"
            )
            self.net.requires_grad_(False)
            self.net.embed.eval()  # batch norm in a stem would go on counting
            self.net.head.requires_grad_(True)


@takes_arguments_of(ConvNet, Training, given=FROM_DATA)
class CNN(Classifier):
    """A small convolutional network, the baseline; it reads whole images (`data.patch_size: null`).

    Args:
        dataset: the dataset in plain primitives; see `ViT`.
    """

    kind = "cnn"

    def __init__(self, dataset: dict, **arguments):
        if dataset.get("patch_size"):
            raise InputError(
                f"data.patch_size {dataset['patch_size']}: a CNN reads whole images; use null"
            )
        super().__init__(dataset, arguments)


def _counts(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the metrics of a running epoch have counted."""
    return {
        key: value.cpu()
        for key, value in state.items()
        if key.startswith(("train_loss.", "train_accuracy."))
    }
