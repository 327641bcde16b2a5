"""Time the training step of recipes by precision and by optimizer.

    python -m benchmarks.training_step                             three recipes; takes 10 minutes
    python -m benchmarks.training_step --configs mnist --rounds 3  takes less than a minute
    ONEDNN_MAX_CPU_ISA=AVX2 python -m benchmarks.training_step     simulates a CPU without bf16

Prints a table of medians over interleaved rounds. Other flags are passed to the recipes, as to
`train.py`. The first two rows of a recipe are bare steps in float32 and in bf16 on one batch of
random images: forward, loss, backward, clipping, optimizer and weight averaging. The other rows
time only the optimizer, with fixed gradients: the recipe's optimizer, and PyTorch's Muon (which
does not support convolutions, so fused AdamW updates the rest). Their time is also given as a
fraction of the float32 step.
"""

import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.interleaved import Timed, header, interleave, median_ratio, timing_parser
from benchmarks.tables import Rows, table
from benchmarks.throughput import DTYPES, train_step
from src.cli.messages import silence_lightning
from src.cli.parser import parse
from src.errors import exit_on_input_error
from src.training.build import Settings

CONFIGS = ("mnist", "mnist_best", "cifar10_cpu")
LR = 1e-6  # low enough to leave the network practically unchanged
COLUMNS = ("milliseconds", "images/s", "of_the_first_row", "of_the_step")


def main() -> None:
    parser = timing_parser(__doc__, rounds=9)
    parser.add_argument("--configs", nargs="+", default=CONFIGS, help="config names")
    parser.add_argument("--seconds", type=float, default=0.5, help="time per round and row")
    options, flags = parser.parse_known_args()
    torch.set_num_threads(options.threads)
    silence_lightning()
    rows: Rows = {}
    for config in options.configs:
        recipe = ["--config", f"configs/{config}.yaml", "--trainer.accelerator", "cpu", *flags]
        found = measure(recipe, options.seconds, options.rounds)
        rows |= {f"{config}, {name}": row for name, row in found.items()}
    print(header(), "", table(rows, COLUMNS), sep="\n")


def measure(flags: list[str], seconds: float, rounds: int) -> Rows:
    """Measure a recipe and return its table rows."""
    settings = parse(flags)
    steps = {name: recipe_step(settings, "cpu", name) for name in DTYPES}
    steps["32-true"]()
    contenders = steps | optimizer_steps(settings)
    turns = {name: Timed(step, seconds) for name, step in contenders.items()}
    found = interleave(turns, rounds)
    rows: Rows = {}
    for name, times in found.items():
        median = statistics.median(times)
        rows[name] = {"milliseconds": 1000 * median}
        if name in steps:
            rows[name]["images/s"] = settings.data.batch_size / median
            rows[name]["of_the_first_row"] = median_ratio(found["32-true"], times)
        else:
            rows[name]["of_the_step"] = median / statistics.median(found["32-true"])
    return rows


def recipe_step(settings: Settings, device: str, precision: str) -> Callable[[], None]:
    """Return a bare training step on one batch that stays on the device."""
    data, model = settings.data, settings.model.to(device)
    network, config, info = model.net.train(), model.config, data.info
    size = (data.batch_size, info.channels, info.image_size, info.image_size)
    images = torch.randint(0, 256, size, dtype=torch.uint8, device=device)
    labels = torch.arange(data.batch_size, device=device) % len(info.classes)
    inputs = data.patchify(data.augment(images, torch.Generator(device).manual_seed(0)))
    optimizer = model.configure_optimizers()
    weights = list(network.parameters())
    averages: list[Tensor] = list(model.ema.parameters()) if model.ema else []

    def step() -> None:
        train_step(network, optimizer, inputs, labels, precision, config.label_smoothing)
        if averages:
            with torch.no_grad():
                torch._foreach_lerp_(averages, weights, 1 - config.ema_decay)

    return step


def optimizers(settings: Settings) -> dict[str, list[torch.optim.Optimizer]]:
    """Return the optimizers to compare as {name: [optimizer, ...]}."""
    trainable = [p for p in settings.model.net.parameters() if p.requires_grad]
    own = settings.model.configure_optimizers()
    for group in own.param_groups:
        group["lr"] = LR
    hidden = [p for group in own.param_groups if group.get("muon") for p in group["params"]]
    matrices = {p: None for p in hidden if p.ndim == 2}
    contenders = {"its own optimizer": [own]}
    if matrices and hasattr(torch.optim, "Muon"):  # PyTorch 2.9 or newer
        others = [p for p in trainable if p not in matrices]
        muon = torch.optim.Muon([*matrices], lr=LR)
        adamw = torch.optim.AdamW(others, lr=LR, fused=True)
        contenders["torch.optim.Muon, fused AdamW"] = [muon, adamw]
    return contenders


def optimizer_steps(settings: Settings) -> dict[str, Callable[[], None]]:
    """Return optimizer steps that first set the gradients, because our Muon frees them."""
    trainable = [p for p in settings.model.net.parameters() if p.requires_grad]
    gradients = {p: torch.randn_like(p) for p in trainable}

    def step(contender: list[torch.optim.Optimizer]) -> None:
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        for optimizer in contender:
            optimizer.step()

    return {name: partial(step, contender) for name, contender in optimizers(settings).items()}


if __name__ == "__main__":
    with exit_on_input_error():
        main()
