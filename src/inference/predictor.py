"""Image files in, class probabilities out; needs neither Lightning nor torchvision."""

import contextlib
import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from src.data.datasets import Strokes
from src.data.images import read_image, read_photo
from src.errors import InputError, is_out_of_memory, printable
from src.extras.paper.photo import SIDES, develop
from src.inference.pipeline import ImageClassifier
from src.models.build import build
from src.models.rollout import rollout
from src.runs.checkpoint import load_checkpoint, network_weights
from src.transforms.patchify import normalize

BATCH = 256
MAX_SIDE = 8192  # pixels; a larger image is not an image but an attack on the memory
MAX_VALUES = 2**29  # in one layer's output for one image: 2 GiB


class Given(NamedTuple):
    """What the network is given of a file.

    image: uint8 [C, image_size, image_size]
    notes: what the user should know of it, one sentence each.
    box: where in a photo the digit was found, as fractions of its sides: left, top, right, bottom.
    """

    image: Tensor
    notes: list[str]
    box: tuple[float, float, float, float] | None = None


class Predictor:
    """A trained network together with the preprocessing it was validated with.

    Args:
        path: checkpoint that `train.py` wrote.
        device: "auto" (CUDA, MPS, CPU, whichever is there first), or a device's name.

    Raises:
        InputError: the checkpoint cannot be used, or the device is not there.
    """

    def __init__(self, path: str | Path, device: str = "auto"):
        checkpoint = load_checkpoint(path)
        self.device = torch.device("cpu")
        self.dataset = checkpoint["hyper_parameters"]["dataset"]
        try:
            self.classes = [printable(name) for name in self.dataset["classes"]]
            strokes = self.dataset.get("strokes")  # checkpoints of an earlier version do not say it
            self.strokes = Strokes(**strokes) if strokes else None
            if strokes and not (self.channels == 1 and self.strokes.side <= self.image_size):
                raise InputError(f"strokes of {strokes['side']} pixels")
            network = build_network(checkpoint)
            self.classifier = ImageClassifier(
                network, self.dataset["mean"], self.dataset["std"]
            ).eval()
            self._try_out()
        except Exception as error:  # altered hyperparameters can be wrong in any way
            reason = " ".join(str(error).split())[:200]
            if is_out_of_memory(error):
                raise InputError(
                    f"{path}: not enough memory for its network ({reason}); free some"
                ) from None
            raise InputError(
                f"{path}: its weights and hyperparameters do not fit each other ({reason}); train again"
            ) from None
        device = find_device(device)
        with enough_memory(device, "the network"):
            self.classifier.to(device)
        self.device = device

    def _try_out(self) -> None:
        """Ask about one blank image, on the CPU: what does not fit is found now."""
        blank = torch.zeros(1, self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        result = self.probabilities(blank)
        if result.shape[1] != len(self.classes):
            raise InputError(f"{result.shape[1]} outputs, {len(self.classes)} class names")
        if not result.isfinite().all():
            raise InputError("not all of its values are finite")

    @property
    def image_size(self) -> int:
        return self.dataset["image_size"]

    @property
    def channels(self) -> int:
        return self.dataset["channels"]

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """uint8 [B, C, image_size, image_size] -> float32 [B, K] on the CPU; every row sums to 1."""
        return self.classifier(images.to(self.device)).cpu()

    def open(self, path: str, invert: str = "auto") -> Given:
        """One image file as the network is to see it.

        Files are read as in validation. But where the network knows light strokes on black, the digit in a photo is
        found first, and brought into the form of the training images (`photos.py`).

        Args:
            invert: whether dark and light are swapped: "yes", "no", or "auto", which is "no" but for such photos.

        Raises:
            InputError: naming the file, which cannot be read, or in which there are no strokes.
        """
        if self.strokes:
            photo = read_photo(path, SIDES[1])
            try:
                developed = develop(photo, self.image_size, self.strokes, invert)
            except InputError as error:
                raise InputError(f"{path}: {error}") from None
            several = f"there seem to be {developed.digits} digits in it; the largest was read, photograph them one by one"
            notes = [several] if developed.digits > 1 else []
            return Given(torch.from_numpy(developed.image.copy())[None], notes, developed.box)
        image, notes = read_image(path, self.image_size, self.channels), []
        if invert == "yes":
            image = 255 - image
        elif min(self.dataset["mean"]) < 0.35 and image[:, [0, -1]].float().mean() > 127:
            notes.append(
                "it is light at its border, the training images are dark there; try --invert yes"
            )
        return Given(image, notes)

    def read(self, paths: list[str], invert: str = "auto") -> Tensor:
        """Image files -> uint8 [B, C, image_size, image_size], what the network is to see of them; see `open`."""
        return torch.stack([self.open(path, invert).image for path in paths])

    @torch.inference_mode()
    def attention(self, images: Tensor) -> Tensor:
        """uint8 [B, C, image_size, image_size] -> where the network looks, float32 [B, S, S] on the CPU; see `rollout`.

        Raises:
            InputError: the network has no attention.
        """
        images = normalize(images.to(self.device), self.dataset["mean"], self.dataset["std"])
        return rollout(self.classifier.network, images).cpu()

    def top(self, images: Tensor, k: int) -> list[list[dict]]:
        """The `k` likeliest classes of every image: `{"index", "class", "probability"}`, likeliest first."""
        rows = []
        for batch in images.split(BATCH):
            with enough_memory(self.device, f"{len(batch)} images"):
                values, indices = self.probabilities(batch).topk(min(k, len(self.classes)), dim=1)
            rows += [
                [
                    {"index": i, "class": self.classes[i], "probability": round(p, 6)}
                    for i, p in zip(idx, val, strict=True)
                ]
                for idx, val in zip(indices.tolist(), values.tolist(), strict=True)
            ]
        return rows


def build_network(checkpoint: dict) -> nn.Module:
    """The network of a checkpoint, with its averaged weights where it has them.

    It is built without memory, and given the checkpoint's tensors only when they fit: a few bytes cannot declare a
    network that fills the machine.

    Raises:
        InputError: the hyperparameters do not fit the weights, or each other.
    """
    hparams = checkpoint["hyper_parameters"]
    arguments, ensemble = hparams["network"], hparams.get("ensemble", 1)
    weights, _ = network_weights(checkpoint)
    if not isinstance(ensemble, int) or not 1 <= ensemble <= len(weights):
        raise InputError(f"an ensemble of {ensemble} networks")
    layers = (
        len(weights) // ensemble
    )  # loops run over them: no network has more than there are tensors for
    for name, limit in {"image_size": MAX_SIDE, "depth": layers, "stem_layers": layers}.items():
        if (arguments.get(name) or 0) > limit:
            raise InputError(f"{name} {arguments[name]}, more than {limit}")
    for name in ("image_size", "channels", "patch_size"):
        if name in arguments and arguments[name] != hparams["dataset"][name]:
            raise InputError(
                f"{name} {arguments[name]} of the network, {hparams['dataset'][name]} of the data"
            )
    widest = max(max(value.shape, default=1) for value in weights.values())
    outputs = [
        value.shape[1] * widest for key, value in weights.items() if key.endswith("positions")
    ]
    for key, value in weights.items():
        if stage := re.search(r"embed\.stages\.(\d{1,2})\.conv1\.weight$", key):
            channels = max(
                value.shape[:2], default=0
            )  # of what it reads, as from whitening filters, and what it gives
            outputs.append(channels * (arguments["image_size"] >> int(stage[1])) ** 2)
    if max(outputs, default=0) > MAX_VALUES:
        raise InputError(f"it would compute {max(outputs):,} values at once for one image")
    with torch.device("meta"):
        network = build(arguments, ensemble)
    network.load_state_dict(weights, assign=True)
    return network.float()


@contextlib.contextmanager
def enough_memory(device: torch.device, what: str):
    """Raises InputError when the block finds too little memory on the device."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        remedy = "free some" if device.type == "cpu" else "use --device cpu"
        raise InputError(f"device {device}: not enough memory for {what}; {remedy}") from None


def find_device(name: str) -> torch.device:
    """The device of that name; `auto` takes CUDA or MPS where there is one."""
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        device = torch.device(name)
        torch.ones(
            1, device=device
        ).cpu()  # it must not only be there, but compute: "meta" does not
    except (
        Exception
    ) as error:  # torch raises AssertionError, RuntimeError or NotImplementedError, by device
        reason = " ".join(str(error).split("\n")[0].split())[:120]
        raise InputError(
            f"device {name!r} cannot be used here ({reason}); use --device cpu"
        ) from None
    return device
