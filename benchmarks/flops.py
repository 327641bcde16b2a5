"""What a recipe costs: counted flops, and the seconds that a GPU would need for it at a share of its peak. As a table.

    python -m benchmarks.flops                             the recipes that are meant for a GPU
    python -m benchmarks.flops --configs mnist cifar10_cpu --share 0.3

Counted by `torch.utils.flop_counter` on the `meta` device: matrix products, convolutions and attention of the forward
and backward pass, and the products in Muon's step; a multiplication and an addition are two flops. Whatever else a
step does (norms, activations, augmentation, the average of the weights) is left out, and costs time all the same.
"""

import argparse
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training import table
from src.cli.messages import quiet
from src.cli.parser import parse
from src.errors import exit_on_input_error

RECIPES = (
    "cifar10_fast",
    "cifar10",
    "cifar100",
    "cifar10_finetune",
    "cifar10_tutorial",
    "cifar10_best",
)
# What makes of configs/cifar10_finetune.yaml, which goes on from cifar100_cpu, one that goes on from cifar100.
FROM_CIFAR100 = """--model.stem_layers 0 --model.stem_width null --model.whiten false --model.mirror false
    --model.depth 6 --model.heads 8 --data.patch_size 4 --model.optimizer adamw --model.lr 5e-4 --model.ema_decay 0
    --model.init_from""".split()
# Peak of dense bf16 products with sums in float32, flops a second, from NVIDIA's data sheets.
PEAKS = {"H200": 989e12, "H100 80GB HBM3": 989e12, "A100": 312e12, "RTX 4090": 165e12}


class Flops(NamedTuple):
    """Flops of training, and how often they are done."""

    image: float  # forward and backward of one image
    step: float  # the optimizer's, whatever the batch
    batch: int
    images: int  # of a pass
    passes: int

    @property
    def of_a_pass(self) -> float:
        return self.images * (self.image + self.step / self.batch)


def count(config: str, images: int, *flags: str) -> Flops:
    """The flops of training `configs/<config>.yaml` with these flags, on so many images before the validation split."""
    given = ["--config", f"configs/{config}.yaml", "--model.compile", "false"]
    given += [*FROM_CIFAR100, "null"] if config == "cifar10_finetune" else []
    given += flags
    with torch.device("meta"):
        settings = parse(given)
        data, net = settings.data, settings.model.net
        networks = settings.model.hparams.ensemble
        image = torch.zeros(
            networks, data.info.channels, data.info.image_size, data.info.image_size
        )
        with FlopCounterMode(display=False) as counter:
            net(image).sum().backward()
        forward_and_backward = counter.get_total_flops() / networks
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            optimizer = settings.model.configure_optimizers()
            for group in optimizer.param_groups:
                if group.get("muon"):
                    optimizer._muon_step(
                        group
                    )  # AdamW has no products, and older versions cannot step on `meta`
    trained = round(images * (1 - data.val_fraction)) // data.batch_size * data.batch_size
    passes = settings.trainer["max_epochs"]
    return Flops(forward_and_backward, counter.get_total_flops(), data.batch_size, trained, passes)


def peak_of(device: str) -> float | None:
    """Peak of the device of that name, flops a second; None for one that is not in the table."""
    return next((peak for name, peak in PEAKS.items() if name in device), None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configs", nargs="+", default=RECIPES, help="names of configs")
    parser.add_argument(
        "--images", type=int, default=50_000, help="training images, those for validation included"
    )
    parser.add_argument("--share", type=float, default=0.4, help="of the peak that a step reaches")
    options = parser.parse_args()
    quiet()
    results = {}
    for config in options.configs:
        flops = count(config, options.images)
        steps = flops.images // flops.batch
        seconds = {
            name: flops.of_a_pass / (options.share * PEAKS[name])
            for name in ("H200", "A100", "RTX 4090")
        }
        results[config] = {
            "MFLOP an image": f"{flops.image / 1e6:,.0f}",
            "GFLOP of Muon a step": f"{flops.step / 1e9:,.0f}",
            "TFLOP a pass": f"{flops.of_a_pass / 1e12:,.0f}",
            "passes": flops.passes,
            **{f"s on {name}": f"{flops.passes * value:,.1f}" for name, value in seconds.items()},
            "ms a step on H200": f"{1000 * seconds['H200'] / steps:.1f}",
        }
    print(table(results, tuple(results[options.configs[0]])))


if __name__ == "__main__":
    with exit_on_input_error():
        main()
