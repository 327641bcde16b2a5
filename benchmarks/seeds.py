"""Train recipes with several seeds, and compare them with modified settings.

    python -m benchmarks.seeds --config configs/mnist.yaml --seeds 0 1 2
    python -m benchmarks.seeds --config configs/mnist_patch7.yaml configs/mnist_cnn.yaml --seeds 0
    python -m benchmarks.seeds --config configs/cifar10_finetune.yaml --seeds 0 \\
        --compare "--model.freeze encoder" --compare "--model.init_from null"
    python -m benchmarks.seeds --config configs/folder.yaml --data.root photos --folds 5 --seeds 0
    python -m benchmarks.seeds --config configs/folder.yaml --images 50 200 500
    python -m benchmarks.seeds --config configs/folder.yaml --images 500,200,80,30,10 --seeds 0 1 \\
        --compare "--data.balance sampler"

Prints a table with a row per config and change: the test accuracy of each seed (validation accuracy
if there is no test), its mean and standard deviation, and the training time. Flags that are not
listed below are passed to all training runs.

--images trains on class folders with the given number of CIFAR-100 images per class, or with a
different number for each class, separated by commas. --folds 5 trains five times for each seed,
validates on a different fifth of the training images each time, and compares validation accuracies.

Runs are stored in `data/runs/<config>_<change>_seed<n>/`. Finished runs are skipped, interrupted
runs are resumed, and a run with different settings causes an error.
"""

import argparse
import json
import re
import shutil
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.tables import Row, Rows, make_parser, positive, table
from benchmarks.training import run_train_py
from src.errors import InputError, exit_on_input_error
from src.runs.directory import find_run
from src.runs.results import read_results

FIVE = ("apple", "bicycle", "castle", "tiger", "whale")


class Variant(NamedTuple):
    """A row of the table."""

    config: str
    name: str  # run name without the seed
    flags: list[str]
    images: str = ""  # source folder and classes of the images


def main() -> None:
    options, flags = _parse()
    rows: Rows = {}
    for label, variant in variants(options, flags).items():
        runs = [
            finish(each, seed, options.runs)
            for seed in options.seeds
            for each in folds(variant, options.folds)
        ]
        tests = not options.folds
        rows[label] = summary([read_results(run) for run in runs], tests)
    print(table(rows, tuple(next(iter(rows.values())))))


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = make_parser(__doc__)
    parser.add_argument("--config", nargs="+", required=True, help="recipe YAML files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folds", type=positive, help="cross-validate with this many folds")
    parser.add_argument("--runs", default="data/runs", help="run folder")
    parser.add_argument(
        "--compare", action="append", default=[], help="flags of an additional row, as one string"
    )
    parser.add_argument("--images", type=_counts, nargs="+", help="training images per class")
    parser.add_argument("--classes", nargs="+", default=FIVE, help="class folders in --source")
    parser.add_argument("--source", default="data/cifar100", help="{train,test}/<class>/* folder")
    options, flags = parser.parse_known_args()
    for flag in ("--seed_everything", "--name", "--resume"):
        if any(given.split("=")[0] == flag for given in flags):
            raise InputError(f"{flag} is set from --config and --seeds; remove it")
    for config in options.config:
        if not Path(config).is_file():
            raise InputError(f"--config {config}: no such file; see configs/")
    return options, flags


def _counts(text: str) -> list[int]:
    return [positive(part) for part in text.split(",")]


def variants(options: argparse.Namespace, flags: list[str]) -> dict[str, Variant]:
    """Return the table rows as {label: variant}."""
    found = {}
    for config in options.config:
        stem = Path(config).stem
        for counts in options.images or [[]]:
            prefix = "_".join([stem, *map(str, counts)])
            label, images, folder = stem, "", []
            if counts:
                root = Path(options.runs, f"{prefix}_images")
                link(Path(options.source), root, options.classes, counts)
                folder = ["--data.root", str(root)]
                images = f"{options.source}, evenly spaced: {', '.join(options.classes)}"
                label += f", {', '.join(map(str, counts))} images per class"
            for change in ("", *options.compare):
                name = re.sub(r"[^\w.]+", "_", f"{prefix} {change}").strip("_")
                row = f"{label}, {change}" if change else label
                found[row] = Variant(config, name, [*folder, *flags, *change.split()], images)
    return found


def folds(variant: Variant, count: int | None) -> list[Variant]:
    """Return a variant for each fold of cross-validation, or only `variant` if `count` is None."""
    return [
        variant._replace(
            name=f"{variant.name}_fold{fold}",
            flags=[*variant.flags, "--data.folds", str(count), "--data.fold", str(fold)],
        )
        for fold in range(count or 0)
    ] or [variant]


def link(source: Path, target: Path, classes: list[str], images: list[int]) -> None:
    """Create class folders of links to some training images and to all test images.

    The training images are evenly spaced in the order of their names, because names can start with
    a subclass: the first 50 cats of CIFAR-10 are all called `alley_cat`.

    Args:
        source: folder with the images.
        target: folder to create.
        classes: names of the classes.
        images: number of training images of each class; a single number applies to all classes.
    """
    if len(images) == 1:
        images = images * len(classes)
    if len(images) != len(classes):
        raise InputError(
            f"--images has {len(images)} numbers, but --classes has {len(classes)} names; give one "
            "number per class"
        )
    shutil.rmtree(target, ignore_errors=True)
    for split in ("train", "test"):
        for name, count in zip(classes, images, strict=True):
            files = sorted((source / split / name).glob("*"))
            if len(files) < (count if split == "train" else 1):
                raise InputError(
                    f"{source / split / name}: only {len(files)} images; change --classes or "
                    "--images"
                )
            folder = target / split / name
            folder.mkdir(parents=True)
            if split == "train":
                files = [files[i * len(files) // count] for i in range(count)]
            for file in files:
                (folder / file.name).symlink_to(file.resolve())


def finish(variant: Variant, seed: int, runs: str) -> Path:
    """Return the finished run of a variant and seed; start or resume it if needed.

    Raises:
        InputError: training failed (and printed the reason), or the run has different settings.
    """
    name = f"{variant.name}_seed{seed}"
    config = yaml.safe_load(Path(variant.config).read_text())
    asked = {"config": config, "flags": variant.flags, "images": variant.images}
    kept = Path(runs, name, "asked.json")
    try:
        run, _ = find_run("", Path(runs), name)
    except InputError:  # no run yet
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(asked))
        start = ["--config", variant.config, "--seed_everything", str(seed), *variant.flags]
        run_train_py("--name", name, "--runs", runs, *start)
    else:
        if not kept.is_file() or json.loads(kept.read_text()) != asked:
            raise InputError(f"{run}: has a different config or flags; remove it, or change --runs")
        if not read_results(run):
            run_train_py("--name", name, "--runs", runs, "--resume")
    return find_run("", Path(runs), name)[0]


def summary(results: list[dict[str, Any]], tests: bool) -> Row:
    """Return the table row of a variant from the results of its runs.

    Args:
        results: content of the runs' results.json.
        tests: whether to prefer test results to validation results.

    Raises:
        InputError: the runs have neither test nor validation results.
    """
    tested = tests and results[0]["test_accuracy"] is not None
    metric = "test_accuracy" if tested else "val_accuracy"
    accuracies = [result[metric] for result in results]
    if None in accuracies:
        raise InputError(
            "no accuracy: remove --trainer.limit_test_batches, or set --data.val_fraction above 0"
        )
    seconds = [f"{result['train_seconds']:.0f}" for result in results]
    speeds = [f"{result['images_per_second']:,.0f}" for result in results]
    return {
        f"mean_{metric}": statistics.mean(accuracies),
        "standard_deviation": statistics.stdev(accuracies) if len(accuracies) > 1 else "",
        "each_run": ", ".join(f"{accuracy:.4f}" for accuracy in accuracies),
        "parameters": results[0]["parameters"],
        "images_seen": results[0]["images_seen"],
        "train_seconds": ", ".join(seconds),
        "images_per_second": ", ".join(speeds),
    }


if __name__ == "__main__":
    with exit_on_input_error():
        main()
