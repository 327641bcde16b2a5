"""Typed descriptions of the dataset, the network and its training, as stored in checkpoints.

Each description is validated once, on construction. `to_primitives` converts it to plain values for
a checkpoint, and `from_primitives` converts it back.
"""

import math
import unicodedata
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar, get_args

from src.errors import InputError

Config = TypeVar("Config")

# Sizes B and L are from Table 1 of the ViT paper, Ti and S from Steiner et al. 2021, "How to train
# your ViT?", arXiv:2106.10270.
SIZES = {
    "Ti": {"width": 192, "depth": 12, "heads": 3},
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
}
Size = Literal["Ti", "S", "B", "L"]
Pool = Literal["cls", "mean", "max", "sequence"]
Positions = Literal["learned", "sincos", "local"]
Optimizer = Literal["muon", "adamw", "adam", "sgd"]
LRDecay = Literal["cosine", "linear"]
Fit = Literal["crop", "pad", "stretch"]

MAX_CLASSES = 10**6
MAX_CHANNELS = 1024
MAX_PARAMETERS = 2 * 10**9  # 32 GB with gradients and moments; more is probably a typo


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """Properties of a dataset that its networks depend on.

    Args:
        classes: class names in label order, or the number of classes.
        image_size: side length of the square images in pixels.
        channels: number of channels, 1 for grayscale and 3 for color.
        mean: per-channel mean for normalization, on a scale from 0 to 1; 0 by default.
        std: per-channel standard deviation on the same scale; 1 by default.
        patch_size: side length of the patches in pixels; None if the data module serves images.
        fit: how image files are made square; see `read_image`.
        mirror_keeps_class: whether the mirror image of an image has the same class.
        name: dataset name.
        module: class name of the data module that reads the dataset; None for your own data.
        root: folder that the data module reads.
    """

    classes: tuple[str, ...]
    image_size: int
    channels: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    patch_size: int | None = None
    fit: Fit = "crop"
    mirror_keeps_class: bool = True
    name: str = "own"
    module: str | None = None
    root: str | None = None

    def __post_init__(self) -> None:
        names = self.classes
        if isinstance(names, int):
            names = tuple(map(str, range(min(names, MAX_CLASSES + 1))))
        # One name for all Unicode forms, because macOS decomposes accented letters.
        _set(self, "classes", tuple(unicodedata.normalize("NFC", name) for name in names))
        if not 2 <= len(self.classes) <= MAX_CLASSES:
            raise InputError(
                f"the number of classes must be from 2 to {MAX_CLASSES:,}, got {len(self.classes)}"
            )
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise InputError(f"channels must be from 1 to {MAX_CHANNELS}, got {self.channels}")
        _set(self, "mean", tuple(self.mean or [0.0] * self.channels))
        _set(self, "std", tuple(self.std or [1.0] * self.channels))
        if self.image_size < 1:
            raise InputError(f"data.image_size must be at least 1, got {self.image_size}")
        if self.fit not in get_args(Fit):
            raise InputError(f"data.fit must be crop, pad or stretch, got {self.fit}")
        if not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0:
            raise InputError(
                f"data.mean {list(self.mean)} and data.std {list(self.std)} must have "
                f"{self.channels} values each, one per channel, and std must be above 0"
            )


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Architecture of a Vision Transformer.

    Args:
        size: one of the published sizes; sets the defaults of `width`, `depth` and `heads`.
        width: embedding dimension D.
        depth: number of blocks.
        heads: number of attention heads per block; must divide `width`.
        mlp_ratio: hidden width of the MLP as a multiple of `width`.
        pool: input of the classification head: the class token, the mean or the maximum of all
            tokens, or CCT's sequence pooling.
        positions: learned position embeddings; sincos, fixed 2-D sine-cosine embeddings; or local,
            sincos plus learned attention biases, with which each head initially attends to one
            neighbor of a token. local does not support `pool` cls.
        stem_layers: number of convolutional stages, each of which halves the side length; needs
            whole images (`data.patch_size: null`). 0 projects patches linearly, as in the paper.
        stem_width: number of channels of the first stage; all later stages then have `width`
            channels. None doubles the number of channels from stage to stage.
        whiten: put fixed whitening filters in front of the stem, and use GELU in it instead of
            ReLU.
        whiten_pad: zero-pad the output of the whitening filters to the image size. Without padding,
            a side of 32 pixels becomes 31, then 15, 7 and 3 after three stages. May only be
            false with `whiten`.
        mirror: in evaluation, average the logits of each image and its mirror image; doubles the
            evaluation time.
        zero_init_residual: initialize the output weights of attention and MLP to zero, so that each
            block initially computes the identity. Goyal et al. 2017, arXiv:1706.02677, section 5.1,
            do the same for ResNet-50 with the scale of each block's last batch norm.
        dropout: dropout rate after the embedding, the attention projection and both MLP layers.
        attention_dropout: dropout rate of the attention weights.
        drop_path: stochastic depth rate of the last block; rates grow linearly from 0 in the first
            block.
    """

    kind: ClassVar[str] = "vit"

    size: Size = "Ti"
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    mlp_ratio: float = 4.0
    pool: Pool = "cls"
    positions: Positions = "learned"
    stem_layers: int = 0
    stem_width: int | None = None
    whiten: bool = False
    whiten_pad: bool = True
    mirror: bool = False
    zero_init_residual: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        for name, choices in (("size", Size), ("pool", Pool), ("positions", Positions)):
            _check_choice(self, name, get_args(choices))
        for name, value in SIZES[self.size].items():
            if getattr(self, name) is None:
                _set(self, name, value)
        for name in ("width", "depth", "heads"):
            _check_least(self, name, 1)
        _check_least(self, "stem_layers", 0)
        for name in ("dropout", "attention_dropout", "drop_path"):
            _check_fraction(self, name)
        self._check_shape()

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The width, depth and number of heads."""
        assert self.width and self.depth and self.heads  # set by __post_init__
        return self.width, self.depth, self.heads

    def _check_shape(self) -> None:
        width, depth, heads = self.sizes
        if not 1 <= width * self.mlp_ratio < math.inf:
            raise InputError(
                f"model.mlp_ratio {self.mlp_ratio} must be finite and give at least one hidden unit"
            )
        parameters = depth * width * (4 * width + 2 * round(width * self.mlp_ratio))
        if parameters > MAX_PARAMETERS:
            raise InputError(
                f"model.width {width}, model.depth {depth} and model.mlp_ratio {self.mlp_ratio} "
                f"give {parameters:.1e} parameters; the limit is {MAX_PARAMETERS:.0e}"
            )
        if width % heads:
            divisors = ", ".join(str(n) for n in range(1, width + 1) if width % n == 0)
            raise InputError(
                f"model.heads {heads} does not divide model.width {width}; choose one of {divisors}"
            )
        if self.positions != "learned" and width % 4:
            raise InputError(
                f"model.positions {self.positions} needs a width divisible by 4, got {width}; "
                "change model.width or use model.positions learned"
            )
        if self.positions == "local" and self.pool == "cls":
            raise InputError(
                "model.positions local does not support model.pool cls, because a class token has "
                "no neighbors; use model.pool mean, max or sequence"
            )
        if self.whiten and not self.stem_layers:
            raise InputError(
                "model.whiten needs a convolutional stem; set model.stem_layers above 0, or "
                "model.whiten false"
            )
        if not self.whiten_pad and not self.whiten:
            raise InputError(
                "model.whiten_pad false has no effect without model.whiten; set model.whiten true, "
                "or model.whiten_pad true"
            )
        first = self.stem_width
        if first is not None and (self.stem_layers < 2 or not 1 <= first <= width):
            raise InputError(
                f"model.stem_width {first} needs at least two stem_layers and must be from 1 to "
                f"the width {width}"
            )


@dataclass(frozen=True, kw_only=True)
class CNNConfig:
    """Architecture of the convolutional baseline.

    Args:
        dropout: dropout rate before the first linear layer; the second layer has twice the rate,
            at most 0.9.
    """

    kind: ClassVar[str] = "cnn"

    dropout: float = 0.25

    def __post_init__(self) -> None:
        _check_fraction(self, "dropout")


NetworkConfig = ViTConfig | CNNConfig
NETWORK_CONFIGS: dict[str, type[ViTConfig] | type[CNNConfig]] = {
    config.kind: config for config in (ViTConfig, CNNConfig)
}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Training hyperparameters.

    Args:
        lr: peak learning rate, reached at the end of the warmup.
        min_lr: learning rate at the last step.
        warmup_epochs: number of epochs over which the learning rate grows linearly from 0; may be
            fractional.
        warmup_steps: number of warmup steps; overrides `warmup_epochs`.
        lr_decay: cosine or linear decay of the learning rate after the warmup.
        optimizer: muon (with AdamW for everything except hidden matrices), adamw (Loshchilov &
            Hutter 2019), adam (with L2 regularization), or sgd (with Nesterov momentum 0.9).
        weight_decay: weight decay of the weight matrices; norms, biases, the class token and
            positions are not decayed.
        constant_norm: with Muon, rescale the stem's convolutions to a constant norm in each step
            instead of decaying them (see `Muon`). Needs `stem_layers`; works best with a momentum
            of 0.6.
        momentum: Nesterov momentum of Muon.
        beta2: decay rate of the second moment in AdamW and Adam.
        label_smoothing: fraction of the target probability that is spread evenly over all classes
            (Szegedy et al. 2016).
        ema_decay: decay of the exponential moving average of the weights; if above 0, the averaged
            weights are used for validation, testing and classification.
        ensemble: number of networks; they split each training batch, and their probabilities are
            averaged.
        compile: compile the network with `torch.compile`; pays off in long runs on a GPU.
        seed: seed for dropout and all other random numbers of a training step; `train.py` sets it
            from `seed_everything`.
    """

    lr: float = 1e-3
    min_lr: float = 1e-5
    warmup_epochs: float = 1.0
    warmup_steps: int | None = None
    lr_decay: LRDecay = "cosine"
    optimizer: Optimizer = "adamw"
    weight_decay: float = 0.05
    constant_norm: bool = False
    momentum: float = 0.95
    beta2: float = 0.999
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    ensemble: int = 1
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _check_choice(self, "optimizer", get_args(Optimizer))
        _check_choice(self, "lr_decay", get_args(LRDecay))
        if self.constant_norm and self.optimizer != "muon":
            raise InputError(
                f"model.constant_norm needs model.optimizer muon, got {self.optimizer}; set "
                "model.optimizer muon, or model.constant_norm false"
            )
        if not 0 < self.lr < math.inf:
            raise InputError(f"model.lr must be above 0 and finite, got {self.lr}")
        if not 0 <= self.min_lr <= self.lr:
            raise InputError(f"model.min_lr must be from 0 to lr {self.lr}, got {self.min_lr}")
        for name in ("warmup_epochs", "weight_decay", "seed"):
            _check_least(self, name, 0)
        if self.warmup_steps is not None:
            _check_least(self, "warmup_steps", 0)
        for name in ("label_smoothing", "ema_decay", "momentum", "beta2"):
            _check_fraction(self, name)
        _check_least(self, "ensemble", 1)


@dataclass(frozen=True, kw_only=True)
class ViTHyperparameters(ViTConfig, TrainingConfig):
    """All hyperparameters of a `ViT`: architecture and training."""

    def __post_init__(self) -> None:
        ViTConfig.__post_init__(self)
        TrainingConfig.__post_init__(self)
        if self.constant_norm and not self.stem_layers:
            raise InputError(
                "model.constant_norm needs a convolutional stem; set model.stem_layers above 0, or "
                "model.constant_norm false"
            )


@dataclass(frozen=True, kw_only=True)
class CNNHyperparameters(CNNConfig, TrainingConfig):
    """All hyperparameters of a `CNN`: architecture and training."""

    def __post_init__(self) -> None:
        CNNConfig.__post_init__(self)
        TrainingConfig.__post_init__(self)
        if self.constant_norm:
            raise InputError(
                "model.constant_norm applies to the stem of a ViT; set model.constant_norm false"
            )


def to_primitives(config: Any, kind: type | None = None) -> dict[str, Any]:
    """Convert a config to a dict of strings, numbers and lists.

    Args:
        config: instance of a dataclass in this module.
        kind: base class of the config; if given, only its fields are returned.
    """
    values = {field.name: getattr(config, field.name) for field in fields(kind or config)}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}


def from_primitives(kind: type[Config], values: dict[str, Any]) -> Config:
    """Construct a config from the output of `to_primitives`.

    Raises:
        TypeError: a field is unknown, missing, or of the wrong type.
        InputError: a value is out of range.
    """
    return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})


def _set(config: Any, name: str, value: Any) -> None:
    object.__setattr__(config, name, value)  # the only way to set a field of a frozen dataclass


def _check_choice(config: Any, name: str, choices: tuple[str, ...]) -> None:
    if (value := getattr(config, name)) not in choices:
        raise InputError(f"model.{name} must be one of {', '.join(choices)}, got {value}")


def _check_least(config: Any, name: str, least: int) -> None:
    if not (value := getattr(config, name)) >= least:
        raise InputError(f"model.{name} must be at least {least}, got {value}")


def _check_fraction(config: Any, name: str) -> None:
    if not 0 <= (value := getattr(config, name)) < 1:
        raise InputError(f"model.{name} must be at least 0 and below 1, got {value}")
