"""Count the FLOPs of recipes and estimate their training time at a fraction of a GPU's peak.

    python -m benchmarks.flops                             named datasets, trained from scratch
    python -m benchmarks.flops --configs mnist cifar10_cpu

Prints a table. `torch.utils.flop_counter` runs on the `meta` device and counts the matrix products,
convolutions and attention of the forward and backward passes, plus Muon's matrix products. A
multiply-add counts as two FLOPs. Norms, activations, augmentation and weight averaging also take
time, but are not counted.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.tables import Rows, make_parser, table
from src.cli.messages import silence_lightning
from src.cli.parser import parse
from src.errors import InputError, exit_on_input_error

# Peak FLOP/s of dense bf16 matrix products with float32 accumulation, from NVIDIA's data sheets.
PEAKS = {"H200": 989e12, "H100 80GB HBM3": 989e12, "A100": 312e12, "RTX 4090": 165e12}
COMPARED = ("H200", "A100", "RTX 4090")
SHARE = 0.4  # assumed fraction of the peak
IMAGES = {  # training images, including the held-out ones
    "digits": 1_438,
    "mnist": 60_000,
    "fashion_mnist": 60_000,
    "cifar10": 50_000,
    "cifar100": 50_000,
}


class Flops(NamedTuple):
    """FLOPs of a training run."""

    image: float  # forward and backward pass of one image
    step: float  # optimizer step; independent of the batch size
    batch: int
    images: int  # number of images per epoch
    epochs: int

    @property
    def per_epoch(self) -> float:
        return self.images * self.per_image

    @property
    def total(self) -> float:
        return self.epochs * self.per_epoch

    @property
    def per_image(self) -> float:
        """FLOPs per image, including its share of the optimizer step."""
        return self.image + self.step / self.batch


def count(config: str) -> Flops:
    """Return the FLOPs of training with `configs/<config>.yaml` on a named dataset."""
    config_flags = ["--config", f"configs/{config}.yaml", "--model.compile", "false"]
    with torch.device("meta"):
        settings = parse(config_flags)
        data, model = settings.data, settings.model
        if data.info.name not in IMAGES:
            raise InputError(f"{config}: its dataset has no fixed size; choose a different config")
        networks, side = model.config.ensemble, data.info.image_size
        inputs = torch.zeros(networks, data.info.channels, side, side)
        with FlopCounterMode(display=False) as passes:
            model.net(inputs).sum().backward()
        with FlopCounterMode(display=False) as step, torch.no_grad():
            optimizer = model.configure_optimizers()
            for group in optimizer.param_groups:
                if group.get("muon"):  # AdamW has no matrix products
                    optimizer._muon_step(group)
    batches = round(IMAGES[data.info.name] * (1 - data.val_fraction)) // data.batch_size
    return Flops(
        image=passes.get_total_flops() / networks,
        step=step.get_total_flops(),
        batch=data.batch_size,
        images=batches * data.batch_size,
        epochs=settings.trainer["max_epochs"],
    )


def countable() -> list[str]:
    """Return the configs that need neither class folders nor a pretrained network."""
    texts = {path.stem: path.read_text() for path in Path("configs").glob("*.yaml")}
    needs = ("FolderDataModule", "init_from")
    return sorted(name for name, text in texts.items() if not any(need in text for need in needs))


def peak_of(device: str) -> float | None:
    """Return the peak FLOP/s of a device, or None if it is not in `PEAKS`."""
    return next((peak for name, peak in PEAKS.items() if name in device), None)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--configs", nargs="+", help="config names")
    configs = parser.parse_args().configs or countable()
    silence_lightning()
    rows: Rows = {}
    for config in configs:
        flops = count(config)
        seconds = {name: flops.per_epoch / (SHARE * PEAKS[name]) for name in COMPARED}
        rows[config] = {
            "MFLOP per image": f"{flops.image / 1e6:,.0f}",
            "GFLOP of Muon per step": f"{flops.step / 1e9:,.0f}",
            "TFLOP per epoch": f"{flops.per_epoch / 1e12:,.0f}",
            "epochs": flops.epochs,
            "PFLOP in total": f"{flops.total / 1e15:.3g}",
        }
        for name, value in seconds.items():
            rows[config][f"s on {name}"] = f"{flops.epochs * value:,.1f}"
        milliseconds = 1000 * seconds["H200"] * flops.batch / flops.images
        rows[config]["ms per step on H200"] = f"{milliseconds:.1f}"
    print(table(rows, tuple(rows[configs[0]])))


if __name__ == "__main__":
    with exit_on_input_error():
        main()
