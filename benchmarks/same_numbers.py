"""Do two checkouts train to the same numbers? Weights, optimizer states and metrics, bit for bit. Prints a table.

    python -m benchmarks.same_numbers ../before .                       about ten minutes on one CPU core
    python -m benchmarks.same_numbers ../before . --only digits sgd     some of the trainings

A change that only moves or renames code must pass. Each checkout trains with its own train.py and its own configs,
seed 0, on the CPU; all of them read the same datasets. Other flags go to all trainings. Exit code 1: something differs.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.training import positive, table, train
from src.errors import InputError, exit_on_input_error
from src.runs.results import read_metrics

SHORT = "--trainer.max_epochs 5 --model.warmup_epochs 1"
PART = "--trainer.max_epochs 1 --model.warmup_epochs 0.2 --trainer.limit_val_batches 2 --trainer.limit_test_batches 2"
TRAININGS = {
    "digits": "--config configs/digits.yaml",
    "sgd": f"--config configs/digits.yaml {SHORT} --model.optimizer sgd --model.lr 1e-2",
    "adam": f"--config configs/digits.yaml {SHORT} --model.optimizer adam",
    "ensemble": f"--config configs/digits.yaml {SHORT} --model.ensemble 2",
    "cnn": f"--config configs/digits.yaml {SHORT} --model CNN --data.patch_size null",
    "mnist": f"--config configs/mnist.yaml --trainer.limit_train_batches 200 {PART}",
    "cifar10_cpu": f"--config configs/cifar10_cpu.yaml --trainer.limit_train_batches 20 {PART}",
    # RandAugment, erasing, MixUp and CutMix, drop path, and Muon
    "cifar10": "--config configs/cifar10.yaml --model.compile false --data.batch_size 64 "
    f"--trainer.limit_train_batches 20 {PART}",
}
RENAMED = {"averaged.": "ema."}  # the beginnings of names of weights: in older checkouts, and now
RESULTS = ("val_accuracy", "test_accuracy", "test_loss", "images_seen", "parameters")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, help="folder of a checkout")
    parser.add_argument("new", type=Path, help="folder of another one")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=TRAININGS,
        default=list(TRAININGS),
        metavar="NAME",
        help="trainings",
    )
    parser.add_argument(
        "--data", type=Path, help="folder of the datasets (default: data/ of the second checkout)"
    )
    parser.add_argument(
        "--threads",
        type=positive,
        default=1,
        help="of each training; with one, nothing disturbs it",
    )
    options, more = parser.parse_known_args()
    data = (options.data or options.new / "data").resolve()
    for checkout in (options.old, options.new):
        if not (checkout / "train.py").is_file():
            raise InputError(
                f"{checkout}: there is no train.py in it; name the folder of a checkout"
            )

    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            flags = [
                *TRAININGS[name].split(),
                "--data.root",
                str(data),
                "--trainer.accelerator",
                "cpu",
            ]
            flags += ["--seed_everything", "0", *more]
            old, new = (
                outcome(checkout, flags, f"{folder}/{side}", options.threads)
                for side, checkout in (("old", options.old), ("new", options.new))
            )
            differ = differences(old, new)
            tensors = sum(isinstance(value, Tensor) for value in new.values())
            equal = f"no: {len(differ)} differ, {', '.join(differ[:3])}" if differ else "yes"
            results[name] = {"tensors_compared": tensors, "equal": equal}
            print(f"{name}: {tensors} tensors, equal: {equal}", file=sys.stderr, flush=True)
    print(table(results, ("tensors_compared", "equal")))
    if any(result["equal"] != "yes" for result in results.values()):
        sys.exit(1)


def outcome(checkout: Path, flags: list[str], runs: str, threads: int) -> dict[str, object]:
    """What a training in the checkout ends with, by name: the tensors and values of last.ckpt, metrics, and results."""
    results = train(
        *flags, runs=runs, cwd=checkout, env=os.environ | {"OMP_NUM_THREADS": str(threads)}
    )
    run = Path(results["run"])
    checkpoint = torch.load(
        run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True
    )
    weights = checkpoint["state_dict"]
    for before, now in RENAMED.items():
        weights = {
            now + key.removeprefix(before) if key.startswith(before) else key: v
            for key, v in weights.items()
        }
    metrics = [
        {key: value for key, value in row.items() if key != "images_per_second"}
        for row in read_metrics(run)
    ]
    found = {
        "weights": weights,
        "optimizer": checkpoint["optimizer_states"],
        "metrics.csv": metrics,
    }
    return dict(leaves(found | {"results.json": {key: results[key] for key in RESULTS}}))


def leaves(tree: object, path: str = "") -> Iterator[tuple[str, object]]:
    """{"a": [1, 2]} -> ("a.0", 1), ("a.1", 2)"""
    if isinstance(tree, dict | list | tuple):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, tree


def differences(old: dict[str, object], new: dict[str, object]) -> list[str]:
    """The names under which the two do not have the same bits, or that only one of them has."""
    names = old | new
    return [
        name
        for name in names
        if name not in old or name not in new or not same_bits(old[name], new[name])
    ]


def same_bits(a: object, b: object) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return type(a) is type(b) and a == b
    alike = (a.shape, a.dtype) == (b.shape, b.dtype)
    return alike and torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))


if __name__ == "__main__":
    with exit_on_input_error():
        main()
