"""The LightningModules: training, validation and test steps, metrics, the optimizer and its schedule."""

import copy
import math
import time
from typing import Literal

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from src.errors import InputError
from src.networks import build
from src.optim import Muon, learning_rate, muon_groups, parameter_groups
from src.randomness import fold_in
from src.weights import load_encoder


class Classifier(LightningModule):
    """Trains a network to classify; use one of its subclasses, `ViT` or `CNN`.

    Args:
        network: which network to build, "vit" or "cnn", and its arguments.
        dataset: the dataset in plain primitives, `ImageDataModule.description`; `train.py` links it.
        lr: highest learning rate, reached after the warm-up.
        min_lr: learning rate of the last step.
        warmup_epochs: epochs in which the learning rate grows linearly from 0; fractions are welcome.
        optimizer: Muon for hidden matrices and AdamW for the rest (`src/optim.py`), AdamW alone (Loshchilov & Hutter
            2019), Adam with L2 decay, or SGD with Nesterov momentum 0.9.
        weight_decay: decay of matrices; norms, biases, class token and positions never decay.
        beta2: decay rate of AdamW's and Adam's second moment.
        label_smoothing: share of the target spread evenly over all classes (Szegedy et al. 2016).
        ema_decay: above 0, a moving average of the weights with this decay is validated, tested and classified with.
        ensemble: networks that share every batch in training and whose probabilities are averaged (`src/networks.py`).
        compile: compile the network with `torch.compile`; pays in long runs on a GPU.
    """

    def __init__(
        self,
        network: dict,
        dataset: dict,
        lr: float = 1e-3,
        min_lr: float = 1e-5,
        warmup_epochs: float = 1.0,
        optimizer: Literal["muon", "adamw", "adam", "sgd"] = "adamw",
        weight_decay: float = 0.05,
        beta2: float = 0.999,
        label_smoothing: float = 0.0,
        ema_decay: float = 0.0,
        ensemble: int = 1,
        compile: bool = False,
    ):
        super().__init__()
        training = dict(
            lr=lr, min_lr=min_lr, warmup_epochs=warmup_epochs, optimizer=optimizer, weight_decay=weight_decay,
            beta2=beta2, label_smoothing=label_smoothing, ema_decay=ema_decay, ensemble=ensemble,
        )  # fmt: skip
        _check_training(**training)
        self.save_hyperparameters({"network": network, "dataset": dataset, **training}, logger=False)
        self.net = build(network, ensemble)
        self.averaged = copy.deepcopy(self.net).requires_grad_(False) if ema_decay else None
        if compile:
            self.net.compile()
        accuracy = MulticlassAccuracy(len(dataset["classes"]), average="micro", validate_args=False)
        # Persistent: a checkpoint in the middle of an epoch carries what was counted so far.
        self.train_loss, self.train_accuracy = MeanMetric(), accuracy
        self.train_loss.persistent(True)
        self.train_accuracy.persistent(True)
        self.eval_loss, self.eval_accuracy = MeanMetric(), accuracy.clone()
        self.total_steps: int | None = None  # of the schedule; known when training starts, or is resumed

    @property
    def best_net(self) -> nn.Module:
        """The network that is validated, tested and classified with: the averaged one where there is one."""
        return self.averaged or self.net

    def forward(self, inputs: Tensor) -> Tensor:
        return self.best_net(inputs)

    # Training ---------------------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        steps = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        before, self.total_steps = self.total_steps, steps * self.trainer.max_epochs
        self.warmup_steps = round(steps * self.hparams.warmup_epochs)
        if self.warmup_steps >= self.total_steps and self.trainer.is_global_zero:
            print(f"note: the learning rate never reaches {self.hparams.lr:g}: the warm-up is as long as the training, "
                  f"or longer; lower --model.warmup_epochs ({self.hparams.warmup_epochs:g})")  # fmt: skip
        if before not in (None, self.total_steps) and self.trainer.is_global_zero:
            print(f"the learning-rate schedule, made for {before} steps, now has {self.total_steps}; "
                  f"it goes on in it at step {self.global_step}")  # fmt: skip
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
        self.log("train_loss_step", loss.detach(), prog_bar=True)
        self.log("learning_rate", self.lr_now)
        return loss

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        if gradient_clip_val:  # not Lightning's own: it refuses fused optimizers under bf16-mixed, which need no scaler
            nn.utils.clip_grad_norm_(self.net.parameters(), gradient_clip_val)

    def optimizer_step(self, *args, **kwargs) -> None:
        """Step and average as one: a checkpoint written after the step, by a callback, has both or neither."""
        super().optimizer_step(*args, **kwargs)
        if self.averaged:
            # The warm-up of the average: with few steps behind it, a long memory would only keep the random start.
            steps = self.global_step + 1
            decay = min(self.hparams.ema_decay, (1 + steps) / (10 + steps))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.averaged.parameters()), list(self.net.parameters()), 1 - decay)
                for average, now in zip(self.averaged.buffers(), self.net.buffers(), strict=True):
                    average.copy_(now)  # batch norm's statistics are averages already

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

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        inputs, labels = batch
        logits = self.best_net(inputs)
        self.eval_loss.update(F.cross_entropy(logits.float(), labels), len(inputs))
        self.eval_accuracy.update(logits, labels)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _log_evaluation(self, split: str) -> None:
        metrics = {f"{split}_loss": self.eval_loss.compute(), f"{split}_accuracy": self.eval_accuracy.compute()}
        self.log_dict(metrics)
        self.eval_loss.reset()
        self.eval_accuracy.reset()

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["total_steps"] = self.total_steps

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.total_steps = checkpoint["total_steps"]

    # Optimizer --------------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        hp = self.hparams
        if hp.optimizer == "muon":
            return Muon(muon_groups(self.net, hp.weight_decay), lr=hp.lr, betas=(0.9, hp.beta2))
        groups = parameter_groups(self.net, hp.weight_decay)
        if hp.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=hp.lr, momentum=0.9, nesterov=True)
        kind = torch.optim.AdamW if hp.optimizer == "adamw" else torch.optim.Adam
        return kind(groups, lr=hp.lr, betas=(0.9, hp.beta2), fused=self.device.type in ("cpu", "cuda"))


class ViT(Classifier):
    """The Vision Transformer.

    Args:
        dataset: the dataset in plain primitives; `train.py` links it from the data.
        size: one of the paper's sizes; gives those of `width`, `depth` and `heads` that are not given.
        width: length of every token (embedding dimension).
        depth: number of blocks.
        heads: attention heads of a block; it must divide `width`.
        mlp_ratio: hidden width of the MLP as a multiple of `width`.
        pool: what the head reads: the class token, the mean of all tokens, or CCT's sequence pooling.
        positions: learned position embeddings, or fixed 2-D sine and cosine.
        stem_layers: 0 projects patches, as in the paper; n > 0 reads whole images (`data.patch_size: null`)
            through n stages of convolutions, each halving the side.
        dropout: dropout after the embedding, the attention projection and both MLP layers.
        attention_dropout: dropout of the attention weights.
        drop_path: stochastic depth of the last block; it grows linearly from 0 at the first.
        init_from: start from pre-trained weights: `torchvision:vit_b_16`, a torchvision or timm state dict
            (`.pth`, `.safetensors`), or a checkpoint or run of ours; the head stays new.
        freeze: `encoder` trains the head alone.
    """

    def __init__(
        self,
        dataset: dict,
        size: Literal["Ti", "S", "B", "L"] = "Ti",
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        pool: Literal["cls", "mean", "sequence"] = "cls",
        positions: Literal["learned", "sincos"] = "learned",
        stem_layers: int = 0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        init_from: str | None = None,
        freeze: Literal["none", "encoder"] = "none",
        **training,
    ):
        if bool(stem_layers) == bool(dataset["patch_size"]):
            raise InputError(
                f"data.patch_size {dataset['patch_size']} and model.stem_layers {stem_layers}: a convolutional stem "
                "reads whole images (--data.patch_size null), a plain ViT reads patches (--model.stem_layers 0)"
            )
        network = dict(
            kind="vit", image_size=dataset["image_size"], patch_size=dataset["patch_size"],
            channels=dataset["channels"], classes=len(dataset["classes"]), size=size, width=width, depth=depth,
            heads=heads, mlp_ratio=mlp_ratio, pool=pool, positions=positions, stem_layers=stem_layers, dropout=dropout,
            attention_dropout=attention_dropout, drop_path=drop_path,
        )  # fmt: skip
        super().__init__(network, dataset, **training)
        if (init_from or freeze != "none") and self.hparams.ensemble > 1:
            raise InputError("model.ensemble: init_from and freeze are for a single network; leave the ensemble out")
        self.init_from = init_from
        if init_from:
            print(load_encoder(self.net, init_from))
            if self.averaged:
                self.averaged.load_state_dict(self.net.state_dict())
        if freeze == "encoder":
            print(f"the encoder is frozen{'' if init_from else ' as it was initialised: give --model.init_from, too'}")
            self.net.requires_grad_(False)
            self.net.embed.eval()  # batch norm in a stem would go on counting
            self.net.head.requires_grad_(True)


class CNN(Classifier):
    """A small convolutional network, the baseline; it reads whole images (`data.patch_size: null`).

    Args:
        dataset: the dataset in plain primitives; `train.py` links it from the data.
        dropout: dropout before the first linear layer; before the second it is twice as much.
    """

    def __init__(self, dataset: dict, dropout: float = 0.25, **training):
        if dataset["patch_size"]:
            raise InputError(f"data.patch_size {dataset['patch_size']}: a CNN reads whole images; use null")
        network = dict(
            kind="cnn", image_size=dataset["image_size"], channels=dataset["channels"],
            classes=len(dataset["classes"]), dropout=dropout,
        )  # fmt: skip
        super().__init__(network, dataset, **training)


def _check_training(lr, min_lr, warmup_epochs, weight_decay, label_smoothing, ema_decay, beta2, ensemble, **_) -> None:
    if not 0 < lr < math.inf or not 0 <= min_lr <= lr:
        raise InputError(f"model.lr {lr} and model.min_lr {min_lr}: use lr above 0, and min_lr from 0 to lr")
    for name, value in (("warmup_epochs", warmup_epochs), ("weight_decay", weight_decay)):
        if value < 0:
            raise InputError(f"model.{name} {value}: use 0 or more")
    if lr * weight_decay >= 1:
        raise InputError(f"model.lr {lr} times model.weight_decay {weight_decay} must stay below 1; use smaller ones")
    for name, value in (("label_smoothing", label_smoothing), ("ema_decay", ema_decay), ("beta2", beta2)):
        if not 0 <= value < 1:
            raise InputError(f"model.{name} {value}: use a value from 0 up to, but not including, 1")
    if ensemble < 1:
        raise InputError(f"model.ensemble {ensemble}: use 1 for a single network, or more for several")
