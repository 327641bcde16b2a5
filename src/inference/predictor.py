"""Image files in, class probabilities out; needs neither Lightning nor torchvision."""

import contextlib
from pathlib import Path

import torch
from torch import Tensor, nn

from src.data.images import read_image
from src.errors import InputError, is_out_of_memory
from src.inference.pipeline import ImageClassifier
from src.models.build import build
from src.runs.checkpoint import load_checkpoint, network_weights

BATCH = 256
MAX_SIDE = 8192  # pixels; a larger image is not an image but an attack on the memory
MAX_VALUES = 2**29  # in one layer's output for one image: 2 GiB


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
            self.classes = ["".join(c if c.isprintable() else "?" for c in name) for name in self.dataset["classes"]]
            network = build_network(checkpoint)
            self.classifier = ImageClassifier(network, self.dataset["mean"], self.dataset["std"]).eval()
            self._try_out()
        except Exception as error:  # altered hyperparameters can be wrong in any way
            reason = " ".join(str(error).split())[:200]
            if is_out_of_memory(error):
                raise InputError(f"{path}: not enough memory for its network ({reason}); free some") from None
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

    def read(self, paths: list[str], invert: bool = False) -> Tensor:
        """Image files -> uint8 [B, C, image_size, image_size], as in validation; `invert` swaps dark and light."""
        images = torch.stack([read_image(path, self.image_size, self.channels) for path in paths])
        return 255 - images if invert else images

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
    layers = len(weights) // ensemble  # loops run over them: no network has more than there are tensors for
    for name, limit in {"image_size": MAX_SIDE, "depth": layers, "stem_layers": layers}.items():
        if (arguments.get(name) or 0) > limit:
            raise InputError(f"{name} {arguments[name]}, more than {limit}")
    for name in ("image_size", "channels", "patch_size"):
        if name in arguments and arguments[name] != hparams["dataset"][name]:
            raise InputError(f"{name} {arguments[name]} of the network, {hparams['dataset'][name]} of the data")
    widest = max(max(value.shape, default=1) for value in weights.values())
    outputs = [value.shape[1] * widest for key, value in weights.items() if key.endswith("positions")]
    stems = [value for key, value in weights.items() if key.endswith("embed.stages.0.conv1.weight")]
    outputs += [value.shape[0] * arguments["image_size"] ** 2 for value in stems]
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
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.ones(1, device=device).cpu()  # it must not only be there, but compute: "meta" does not
    except Exception as error:  # torch raises AssertionError, RuntimeError or NotImplementedError, by device
        reason = " ".join(str(error).split("\n")[0].split())[:120]
        raise InputError(f"device {name!r} cannot be used here ({reason}); use --device cpu") from None
    return device
