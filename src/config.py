"""What a checkpoint says of a model, in plain primitives: the data it is for, its network, and how it is trained."""

import inspect
import math
from dataclasses import dataclass
from typing import Literal

from src.errors import InputError
from src.models.build import NETWORKS

FROM_DATA = (
    "image_size",
    "patch_size",
    "channels",
    "classes",
)  # arguments of a network that the dataset decides


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Args:
        lr: highest learning rate, reached after the warm-up.
        min_lr: learning rate of the last step.
        warmup_epochs: epochs in which the learning rate grows linearly from 0; fractions are welcome.
        warmup_steps: the same in steps, in place of `warmup_epochs`.
        optimizer: Muon for hidden matrices and AdamW for the rest (`optim.py`), AdamW alone (Loshchilov & Hutter
            2019), Adam with L2 decay, or SGD with Nesterov momentum 0.9.
        weight_decay: decay of matrices; norms, biases, class token and positions never decay.
        beta2: decay rate of AdamW's and Adam's second moment.
        label_smoothing: share of the target spread evenly over all classes (Szegedy et al. 2016).
        ema_decay: above 0, a moving average of the weights with this decay is validated, tested and classified with.
        ensemble: networks that share every batch in training and whose probabilities are averaged (`ensemble.py`).
        compile: compile the network with `torch.compile`; pays in long runs on a GPU.
        seed: of dropout and all else that is drawn in a step; `train.py` sets it from `seed_everything`.
    """

    lr: float = 1e-3
    min_lr: float = 1e-5
    warmup_epochs: float = 1.0
    warmup_steps: int | None = None
    optimizer: Literal["muon", "adamw", "adam", "sgd"] = "adamw"
    weight_decay: float = 0.05
    beta2: float = 0.999
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    ensemble: int = 1
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf or not 0 <= self.min_lr <= self.lr:
            raise InputError(
                f"model.lr {self.lr} and model.min_lr {self.min_lr}: use lr above 0, and min_lr from 0 to lr"
            )
        for name in ("warmup_epochs", "warmup_steps", "weight_decay", "seed"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise InputError(f"model.{name} {value}: use 0 or more")
        if self.lr * self.weight_decay >= 1:
            product = f"model.lr {self.lr} times model.weight_decay {self.weight_decay}"
            raise InputError(f"{product} must stay below 1; use smaller ones")
        for name in ("label_smoothing", "ema_decay", "beta2"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise InputError(
                    f"model.{name} {value}: use a value from 0 up to, but not including, 1"
                )
        if self.ensemble < 1:
            raise InputError(
                f"model.ensemble {self.ensemble}: use 1 for a single network, or more for several"
            )


def complete_dataset(given: dict) -> dict:
    """The dataset as a checkpoint carries it: what is given, and the defaults of the entries that a library user need
    not give. See `ViT` for the entries.

    Raises:
        InputError: an entry is missing, unknown, or does not fit the others.
    """
    defaults = {
        "name": "own",
        "module": None,
        "root": None,
        "patch_size": None,
        "mean": None,
        "std": None,
    }
    needed = ("classes", "image_size", "channels")
    if missing := [name for name in needed if name not in given]:
        raise InputError(f"dataset: {', '.join(missing)} is missing; give {', '.join(needed)}")
    unknown = given.keys() - defaults.keys() - set(needed)
    if unknown and not given.get("module"):  # a data module knows what it says of itself
        raise InputError(
            f"dataset: {', '.join(sorted(unknown))} is unknown; use {', '.join((*needed, *defaults))}"
        )
    dataset = defaults | given
    names, channels = dataset["classes"], dataset["channels"]
    dataset["classes"] = [str(i) for i in range(names)] if isinstance(names, int) else list(names)
    dataset["mean"] = list(dataset["mean"] or [0.0] * channels)
    dataset["std"] = list(dataset["std"] or [1.0] * channels)
    if len(dataset["classes"]) < 2:
        raise InputError(
            f"dataset: classes {names}: it takes two; give their names or their number"
        )
    if not len(dataset["mean"]) == len(dataset["std"]) == channels or min(dataset["std"]) <= 0:
        raise InputError(
            f"dataset: mean {dataset['mean']} and std {dataset['std']}: give {channels} values, std above 0"
        )
    return dataset


def network_defaults(kind: str) -> dict:
    """Every argument of a network of that kind, with its default."""
    return {p.name: p.default for p in inspect.signature(NETWORKS[kind]).parameters.values()}


def complete_network(kind: str, dataset: dict, arguments: dict) -> dict:
    """Every argument of the network: those given, those that the dataset decides, and the defaults of the others.

    Raises:
        TypeError: the network has no such argument.
    """
    decided = {name: dataset[name] for name in FROM_DATA} | {"classes": len(dataset["classes"])}
    defaults = network_defaults(kind)
    if unknown := arguments.keys() - defaults.keys():
        raise TypeError(f"unexpected arguments: {', '.join(sorted(unknown))}")
    given = decided | arguments
    return {"kind": kind} | {name: given.get(name, default) for name, default in defaults.items()}
