"""Microseconds of an optimizer's step, on the networks of two recipes with gradients that stay the same, by turns.

    python -m benchmarks.optimizers
    python -m benchmarks.optimizers --configs mnist --precision 32-true --json out.json

Ours are Muon and AdamW as `src/training` makes them: hidden matrices with Muon and the rest with AdamW, or AdamW in two
groups, of which one decays. Beside them PyTorch's: `torch.optim.Muon` on those of the hidden matrices that are 2-D (it
takes no convolutions) with fused AdamW on the rest, and AdamW on everything, by a loop, by lists (foreach), and fused.
Prints a table for each recipe: the medians of the rounds, their ratio to our Muon, and the share of the whole training
step, whose forward and backward pass and clipping are measured in the same rounds, at the recipe's batch size and in
`--precision`, on one batch of random images.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.throughput import CLIP
from benchmarks.training import positive
from benchmarks.turns import arguments, header, take_turns, write
from src.cli.messages import quiet
from src.cli.parser import parse
from src.errors import exit_on_input_error
from src.training.optim import Muon, muon_groups, parameter_groups
from src.training.precision import automatic_precision

CONFIGS = ("mnist", "cifar10_cpu")
LR, DECAY, BETAS = 1e-6, 0.05, (0.9, 0.999)  # so small a rate leaves the network what it is
COLUMNS = ("by_Muon", "by_AdamW", "microseconds", "of_our_Muon", "of_the_whole_step")


def main() -> None:
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("--configs", nargs="+", choices=CONFIGS, default=CONFIGS)
    parser.add_argument("--steps", type=positive, default=20, help="of a turn")
    parser.add_argument("--batch", type=positive, help="images of a batch (default: the recipe's)")
    parser.add_argument(
        "--precision", choices=["32-true", "bf16-mixed"], default=automatic_precision("cpu")
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet()
    lines, rows = [header()], {}
    if not hasattr(torch.optim, "Muon"):
        lines.append("left out: torch.optim.Muon, which this PyTorch does not have")
    for config in options.configs:
        found, passes = measure(config, options)
        rows |= {f"{config}: {name}": row for name, row in found.items()}
        alone = f"{passes['step']:,.0f} microseconds a step without the optimizer"
        lines.append(f"{config}, {options.precision}, batch {passes['batch']}: {alone}")
    write(lines, rows, COLUMNS, options.json)


def measure(config: str, options) -> tuple[dict[str, dict], dict]:
    """-> the rows of a recipe, and what its forward and backward pass take"""
    settings = parse(["--config", f"configs/{config}.yaml"])
    network, batch = settings.model.net, options.batch or settings.data.batch_size
    step = forward_and_backward(
        network, settings.data.info, batch, options.precision, settings.model
    )
    step()
    gradients = [p.grad.clone() for p in trainable(network)]
    contenders = optimizers(network)
    turns = {
        name: timed(network, gradients, each, options.steps) for name, each in contenders.items()
    }
    turns["passes"] = lambda: microseconds(step)
    found = take_turns(turns, options.rounds)
    passes = statistics.median(found.pop("passes"))
    rows = {}
    for name, times in found.items():
        muon = sum(p.numel() for optimizer in contenders[name] for p in by_muon(optimizer))
        median = statistics.median(times)
        rows[name] = {
            "by_Muon": muon,
            "by_AdamW": sum(p.numel() for p in trainable(network)) - muon,
        }
        rows[name] |= {
            "microseconds": median,
            "of_the_whole_step": median / (median + passes),
            "rounds": times,
        }
        rows[name]["of_our_Muon"] = statistics.median(
            a / b for a, b in zip(times, found["our Muon"], strict=True)
        )
    return rows, {"batch": batch, "step": passes}


def trainable(network: nn.Module) -> list[nn.Parameter]:
    return [p for p in network.parameters() if p.requires_grad]


def optimizers(network: nn.Module) -> dict[str, list[torch.optim.Optimizer]]:
    """The contenders, each of one optimizer or two."""
    adamw, everything = dict(lr=LR, betas=BETAS), trainable(network)
    found = {"our Muon": [Muon(muon_groups(network, DECAY), **adamw)]}
    if hasattr(torch.optim, "Muon"):  # from PyTorch 2.9 on
        hidden = [p for p in by_muon(*found["our Muon"]) if p.ndim == 2]
        rest = [p for p in everything if all(p is not matrix for matrix in hidden)]
        muon = torch.optim.Muon(hidden, lr=LR, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
        found["torch.optim.Muon, and fused AdamW"] = [
            muon,
            torch.optim.AdamW(rest, **adamw, fused=True),
        ]
    found["our AdamW, in two groups"] = [
        torch.optim.AdamW(parameter_groups(network, DECAY), **adamw, fused=True)
    ]
    for name, kind in {
        "AdamW, a loop": dict(foreach=False, fused=False),
        "AdamW, foreach": dict(foreach=True),
        "AdamW, fused": dict(fused=True),
    }.items():
        found[name] = [torch.optim.AdamW(everything, **adamw, weight_decay=DECAY, **kind)]
    return found


def by_muon(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters that the optimizer makes orthogonal steps with."""
    all_of_them = hasattr(torch.optim, "Muon") and isinstance(optimizer, torch.optim.Muon)
    return [
        p
        for group in optimizer.param_groups
        if group.get("muon", all_of_them)
        for p in group["params"]
    ]


def timed(
    network: nn.Module, gradients: list[Tensor], contender: list, steps: int
) -> Callable[[], float]:
    """A turn: microseconds of a step, the mean of so many. Gradients are set anew before each, for ours takes them."""

    def one() -> float:
        for p, gradient in zip(trainable(network), gradients, strict=True):
            p.grad = gradient
        return microseconds(*(optimizer.step for optimizer in contender))

    return lambda: statistics.mean(one() for _ in range(steps))


def microseconds(*calls: Callable[[], object]) -> float:
    start = time.perf_counter()
    for call in calls:
        call()
    return 1e6 * (time.perf_counter() - start)


def forward_and_backward(
    network: nn.Module, info, batch: int, precision: str, model
) -> Callable[[], None]:
    """A training step without its optimizer, on random images."""
    images = torch.randint(
        0, 256, (batch, info.channels, info.image_size, info.image_size), dtype=torch.uint8
    )
    inputs = model.batches.inputs((images,), torch.float32)
    labels = torch.arange(batch) % len(info.classes)
    smoothing = model.hparams.label_smoothing

    def step() -> None:
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = F.cross_entropy(network(inputs), labels, label_smoothing=smoothing)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)

    return step


if __name__ == "__main__":
    with exit_on_input_error():
        main()
