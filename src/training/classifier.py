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
import inspect
import math
import time
from dataclasses import asdict, dataclass, fields
from typing import Literal

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from src import loop
from src.errors import InputError
from src.models.build import NETWORKS, build
from src.models.cnn import ConvNet
from src.models.vit import VisionTransformer
from src.randomness import fold_in
from src.runs.checkpoint import FORMAT
from src.training.arguments import takes_arguments_of
from src.training.mean import Mean
from src.training.optim import Muon, learning_rate, muon_groups, parameter_groups
from src.training.pretrained import load_encoder

FROM_DATA = ("image_size", "patch_size", "channels", "classes")  # arguments of a network that the dataset decides


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Args:
        lr: highest learning rate, reached after the warm-up.
        min_lr: learning rate of the last step.
        warmup_epochs: epochs in which the learning rate grows linearly from 0; fractions are welcome.
        optimizer: Muon for hidden matrices and AdamW for the rest (`optim.py`), AdamW alone (Loshchilov & Hutter
            2019), Adam with L2 decay, or SGD with Nesterov momentum 0.9.
        weight_decay: decay of matrices; norms, biases, class token and positions never decay.
        beta2: decay rate of AdamW's and Adam's second moment.
        label_smoothing: share of the target spread evenly over all classes (Szegedy et al. 2016).
        ema_decay: above 0, a moving average of the weights with this decay is validated, tested and classified with.
        ensemble: networks that share every batch in training and whose probabilities are averaged (`ensemble.py`).
        compile: compile the network with `torch.compile`; pays in long runs on a GPU.
    """

    lr: float = 1e-3
    min_lr: float = 1e-5
    warmup_epochs: float = 1.0
    optimizer: Literal["muon", "adamw", "adam", "sgd"] = "adamw"
    weight_decay: float = 0.05
    beta2: float = 0.999
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    ensemble: int = 1
    compile: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf or not 0 <= self.min_lr <= self.lr:
            raise InputError(
                f"model.lr {self.lr} and model.min_lr {self.min_lr}: use lr above 0, and min_lr from 0 to lr"
            )
        for name in ("warmup_epochs", "weight_decay"):
            if (value := getattr(self, name)) < 0:
                raise InputError(f"model.{name} {value}: use 0 or more")
        if self.lr * self.weight_decay >= 1:
            product = f"model.lr {self.lr} times model.weight_decay {self.weight_decay}"
            raise InputError(f"{product} must stay below 1; use smaller ones")
        for name in ("label_smoothing", "ema_decay", "beta2"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise InputError(f"model.{name} {value}: use a value from 0 up to, but not including, 1")
        if self.ensemble < 1:
            raise InputError(f"model.ensemble {self.ensemble}: use 1 for a single network, or more for several")


class Classifier(LightningModule):
    """Trains a network to classify; use one of its subclasses, `ViT` or `CNN`.

    Args:
        kind: which network to build, a key of `NETWORKS`.
        dataset: the dataset in plain primitives, `ImageDataModule.description`; `train.py` links it.
        arguments: those of the network that the dataset does not decide, and those of `Training`.
    """

    def __init__(self, kind: str, dataset: dict, arguments: dict):
        super().__init__()
        names = {field.name for field in fields(Training)}
        training = Training(**{key: value for key, value in arguments.items() if key in names})
        network = _complete(kind, dataset, {key: value for key, value in arguments.items() if key not in names})
        hparams = asdict(training) | {"network": network, "dataset": dataset}
        del hparams["compile"]  # a run may be resumed with or without
        self.hparams.update(hparams)
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
        self.total_steps: int | None = None  # of the schedule; known when training starts, or is resumed

    @property
    def eval_net(self) -> nn.Module:
        """The network that is validated, tested and classified with: the averaged one where there is one."""
        return self.ema or self.net

    def forward(self, inputs: Tensor) -> Tensor:
        # Past the compiled call: evaluation is another mode, with other batch sizes, and each would be compiled anew.
        return self.eval_net.forward(inputs)

    # Training ---------------------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        steps = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        before, self.total_steps = self.total_steps, steps * self.trainer.max_epochs
        self.warmup_steps = round(steps * self.hparams.warmup_epochs)
        if self.warmup_steps >= self.total_steps and self.trainer.is_global_zero:
            print(
                f"note: the learning rate never reaches {self.hparams.lr:g}: the warm-up is as long as the training, "
                f"or longer; lower --model.warmup_epochs ({self.hparams.warmup_epochs:g})"
            )
        if before not in (None, self.total_steps) and self.trainer.is_global_zero:
            print(
                f"the learning-rate schedule, made for {before} steps, now has {self.total_steps}; "
                f"it goes on in it at step {self.global_step}"
            )
        self.on_train_epoch_start()  # which Lightning leaves out when a run goes on in the middle of an epoch

    def on_train_epoch_start(self) -> None:
        self.epoch_start, self.epoch_images = time.perf_counter(), 0

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """All that is random in this step follows from (seed, epoch, step, rank); the learning rate from the step."""
        seed = self.trainer.datamodule.seed
        torch.manual_seed(fold_in(seed, self.current_epoch, batch_idx, self.global_rank, 1))
        hp = self.hparams
        self.lr_now = learning_rate(self.global_step, self.total_steps, self.warmup_steps, hp.lr, hp.min_lr)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.lr_now

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, targets = batch
        logits = self.net(inputs)
        loss = F.cross_entropy(logits, targets, label_smoothing=self.hparams.label_smoothing)
        labels = targets.argmax(1) if targets.ndim == 2 else targets  # with MixUp, the label that weighs most
        self.train_loss.update(loss.detach(), len(inputs))
        self.train_accuracy.update(logits.detach(), labels)
        self.epoch_images += len(inputs)
        self.step_loss = loss.detach()
        return loss

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        if gradient_clip_val:  # not Lightning's own: it refuses fused optimizers under bf16-mixed, which need no scaler
            nn.utils.clip_grad_norm_(self.net.parameters(), gradient_clip_val)

    def optimizer_step(self, *args, **kwargs) -> None:
        """Step and average as one: a checkpoint written after the step, by a callback, has both or neither."""
        super().optimizer_step(*args, **kwargs)
        if self.ema:
            # The warm-up of the average: with few steps behind it, a long memory would only keep the random start.
            steps = self.global_step + 1
            decay = min(self.hparams.ema_decay, (1 + steps) / (10 + steps))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.ema.parameters()), list(self.net.parameters()), 1 - decay)
                for average, now in zip(self.ema.buffers(), self.net.buffers(), strict=True):
                    average.copy_(now)  # batch norm's statistics are averages already

    def on_train_batch_end(self, outputs, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("learning_rate", torch.tensor(self.lr_now))  # a number would be copied to the device
        if loop.is_logging_step(self.trainer):
            self.log("train_loss_step", self.step_loss.cpu(), prog_bar=self.trainer.progress_bar_callback is not None)

    def on_train_epoch_end(self) -> None:
        seconds = time.perf_counter() - self.epoch_start
        self.log_dict(
            {
                "train_loss": self.train_loss.compute(),
                "train_accuracy": self.train_accuracy.compute(),
                "images_per_second": self.epoch_images * self.trainer.world_size / seconds,
            }
        )
        self.train_loss.reset()
        self.train_accuracy.reset()

    # Evaluation -------------------------------------------------------------------------------------------------------

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """-> logits [B, K], for `Pictures`"""
        inputs, labels = batch
        logits = self(inputs)
        self.eval_loss.update(F.cross_entropy(logits.float(), labels), len(inputs))
        self.eval_accuracy.update(logits, labels)
        return logits

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _log_evaluation(self, split: str) -> None:
        self.log_dict({f"{split}_loss": self.eval_loss.compute(), f"{split}_accuracy": self.eval_accuracy.compute()})
        self.eval_loss.reset()
        self.eval_accuracy.reset()

    # Checkpoint and optimizer -----------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["format"] = FORMAT
        checkpoint["total_steps"] = self.total_steps

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.total_steps = checkpoint["total_steps"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        hp = self.hparams
        if hp.optimizer == "muon":
            return Muon(muon_groups(self.net, hp.weight_decay), lr=hp.lr, betas=(0.9, hp.beta2))
        groups = parameter_groups(self.net, hp.weight_decay)
        if hp.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=hp.lr, momentum=0.9, nesterov=True)
        kind = torch.optim.AdamW if hp.optimizer == "adamw" else torch.optim.Adam
        # Fused: one kernel for all weights. Not `capturable`: the host sets the rate, so no CUDA graph can hold a step.
        return kind(groups, lr=hp.lr, betas=(0.9, hp.beta2), fused=self.device.type in ("cpu", "cuda"))


@takes_arguments_of(VisionTransformer, Training, given=FROM_DATA)
class ViT(Classifier):
    """The Vision Transformer.

    Args:
        dataset: the dataset in plain primitives; `train.py` links it from the data.
        init_from: start from pre-trained weights: `torchvision:vit_b_16`, a torchvision or timm state dict
            (`.pth`, `.safetensors`), or a checkpoint or run of ours; the head stays new.
        freeze: `encoder` trains the head alone.
    """

    def __init__(
        self, dataset: dict, init_from: str | None = None, freeze: Literal["none", "encoder"] = "none", **arguments
    ):
        super().__init__("vit", dataset, arguments)
        if (init_from or freeze != "none") and self.hparams.ensemble > 1:
            raise InputError("model.ensemble: init_from and freeze are for a single network; leave the ensemble out")
        self.init_from = init_from
        if init_from:
            print(load_encoder(self.net, init_from))
            if self.ema:
                self.ema.load_state_dict(self.net.state_dict())
        if freeze == "encoder":
            print(f"the encoder is frozen{'' if init_from else ' as it was initialized: give --model.init_from, too'}")
            self.net.requires_grad_(False)
            self.net.embed.eval()  # batch norm in a stem would go on counting
            self.net.head.requires_grad_(True)


@takes_arguments_of(ConvNet, Training, given=FROM_DATA)
class CNN(Classifier):
    """A small convolutional network, the baseline; it reads whole images (`data.patch_size: null`).

    Args:
        dataset: the dataset in plain primitives; `train.py` links it from the data.
    """

    def __init__(self, dataset: dict, **arguments):
        if dataset["patch_size"]:
            raise InputError(f"data.patch_size {dataset['patch_size']}: a CNN reads whole images; use null")
        super().__init__("cnn", dataset, arguments)


def _complete(kind: str, dataset: dict, arguments: dict) -> dict:
    """Every argument of the network: those given, those that the dataset decides, and the defaults of the others."""
    decided = {name: dataset[name] for name in FROM_DATA} | {"classes": len(dataset["classes"])}
    parameters = inspect.signature(NETWORKS[kind]).parameters.values()
    return {"kind": kind} | {p.name: (decided | arguments).get(p.name, p.default) for p in parameters}
