"""Check that two checkouts train bit-identical weights, optimizer states and metrics.

    python -m benchmarks.same_numbers ../before .                    ten minutes on one CPU core
    python -m benchmarks.same_numbers ../before . --only digits sgd  selected training runs

A change that only moves or renames code must pass this check. Each checkout trains with its own
`train.py` and configs on the CPU with seed 0; both read the same datasets. Other flags are passed
to all training runs. Prints a table with a row per training run; exits with code 1 if anything
differs.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.tables import Rows, make_parser, table
from benchmarks.training import train
from src.errors import InputError, exit_on_input_error
from src.runs.results import read_metrics

DIGITS = "--config configs/digits.yaml"
SHORT = f"{DIGITS} --trainer.max_epochs 5 --model.warmup_epochs 1"
PART = (
    "--trainer.max_epochs 1 --model.warmup_epochs 0.2 --trainer.limit_val_batches 2 "
    "--trainer.limit_test_batches 2"
)
TRAININGS = {
    "digits": DIGITS,
    "sgd": f"{SHORT} --model.optimizer sgd --model.lr 1e-2",
    "adam": f"{SHORT} --model.optimizer adam",
    "ensemble": f"{SHORT} --model.ensemble 2",
    "cnn": f"{SHORT} --model CNN --data.patch_size null",
    "mnist": f"--config configs/mnist.yaml --trainer.limit_train_batches 200 {PART}",
    "cifar10_cpu": f"--config configs/cifar10_cpu.yaml --trainer.limit_train_batches 20 {PART}",
    # covers RandAugment, erasing, MixUp, CutMix, drop path and Muon
    "cifar10": (
        "--config configs/cifar10.yaml --model.compile false --data.batch_size 64 "
        f"--trainer.limit_train_batches 20 {PART}"
    ),
}
RESULTS = ("val_accuracy", "test_accuracy", "test_loss", "images_seen", "parameters")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("old", type=Path, help="path of the first checkout")
    parser.add_argument("new", type=Path, help="path of the second checkout")
    parser.add_argument("--only", nargs="+", choices=TRAININGS, default=list(TRAININGS))
    parser.add_argument("--data", type=Path, help="dataset folder (default: NEW/data)")
    options, more = parser.parse_known_args()
    for checkout in (options.old, options.new):
        if not (checkout / "train.py").is_file():
            raise InputError(f"{checkout}: no train.py here; pass the path of a checkout")

    data = (options.data or options.new / "data").resolve()
    common = ["--data.root", str(data), "--trainer.accelerator", "cpu", "--seed_everything", "0"]
    rows: Rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            flags = [*TRAININGS[name].split(), *common, *more]
            old = outcome(options.old, flags, f"{folder}/old")
            new = outcome(options.new, flags, f"{folder}/new")
            differing = differences(old, new)
            some = ", ".join(differing[:3])
            rows[name] = {
                "tensors_compared": sum(isinstance(value, Tensor) for value in new.values()),
                "equal": f"no: {len(differing)} differ, {some}" if differing else "yes",
            }
            print(f"{name}: {rows[name]}", file=sys.stderr, flush=True)
    print(table(rows, ("tensors_compared", "equal")))
    if any(row["equal"] != "yes" for row in rows.values()):
        sys.exit(1)


def outcome(checkout: Path, flags: list[str], runs: str) -> dict[str, object]:
    """Train in a checkout; return the final tensors and values as {name: value}."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    results = train(*flags, runs=runs, cwd=checkout, env=environment)
    run = Path(results["run"])
    last = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, map_location="cpu", weights_only=True)
    metrics = [row | {"images_per_second": ""} for row in read_metrics(run)]
    found = {
        "weights": checkpoint["state_dict"],
        "optimizer": checkpoint["optimizer_states"],
        "metrics.csv": metrics,
        "results.json": {key: results[key] for key in RESULTS},
    }
    return dict(leaves(found))


def leaves(tree: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield the leaves of a tree, for example {"a": [1, 2]} -> ("a.0", 1), ("a.1", 2)."""
    if isinstance(tree, list | tuple):
        tree = dict(enumerate(tree))
    if not isinstance(tree, dict):
        yield path, tree
        return
    for key, value in tree.items():
        yield from leaves(value, f"{path}.{key}" if path else str(key))


def differences(old: dict[str, object], new: dict[str, object]) -> list[str]:
    """Return the names whose values differ or that exist on only one side."""
    both = old.keys() & new.keys()
    return [name for name in old | new if name not in both or not same_bits(old[name], new[name])]


def same_bits(a: object, b: object) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return type(a) is type(b) and a == b
    alike = (a.shape, a.dtype) == (b.shape, b.dtype)
    return alike and torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))


if __name__ == "__main__":
    with exit_on_input_error():
        main()
