"""What to expect of a recipe: one training for every seed; mean, standard deviation, and the curves with their spread.

    python -m benchmarks.seeds --config configs/mnist.yaml --seeds 0 1 2
    python -m benchmarks.seeds --config configs/mnist.yaml --seeds 0 1 2 --trainer.limit_test_batches 0

The runs are `data/runs/<config>_seed<N>/`: one that is finished is not trained again, one that was stopped goes on,
one of other settings is refused. The picture is `data/runs/<config>_seeds.png`. Other flags go to all trainings; with
the second command's the test images stay unused.
"""

import argparse
import json
import statistics
from pathlib import Path

import yaml

from benchmarks.training import run_train_py, table
from src.errors import InputError, exit_on_input_error
from src.runs.directory import find_run
from src.runs.results import read_metrics, read_results

CURVES = {
    "train_loss": "loss of training",
    "val_loss": "loss of validation",
    "val_accuracy": "accuracy of validation",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="all flags but these three go to train.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", default="data/runs")
    options, flags = parser.parse_known_args()
    for flag in ("--seed_everything", "--name", "--resume"):
        if any(given.split("=")[0] == flag for given in flags):
            raise InputError(f"{flag}: follows from --config and --seeds here; leave it out")
    if not Path(options.config).is_file():
        raise InputError(f"--config {options.config}: there is no such file; see configs/")
    stem = Path(options.config).stem
    found = {
        seed: finished(options.config, f"{stem}_seed{seed}", seed, options.runs, flags)
        for seed in options.seeds
    }
    row = summary([read_results(run) for run in found.values()])
    print(table({stem: row}, tuple(row)))
    picture = Path(options.runs) / f"{stem}_seeds.png"
    draw({seed: read_metrics(run) for seed, run in found.items()}, stem, picture)
    print(f"\n{picture}")


def finished(config: str, name: str, seed: int, runs: str, flags: list[str]) -> Path:
    """The run of that name, trained to its end: begun here, or gone on with, unless it is there already.

    Raises:
        InputError: the training did not end well, and has said why; or the run is one of other settings.
    """
    named = ["--name", name, "--runs", runs]
    asked = {"config": yaml.safe_load(Path(config).read_text()), "flags": flags}
    kept = Path(runs, name, "asked.json")
    try:
        run, _ = find_run("", Path(runs), name)
    except InputError:  # there is none yet
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(asked))
        run_train_py(*named, "--config", config, "--seed_everything", str(seed), *flags)
    else:
        if not kept.is_file() or json.loads(kept.read_text()) != asked:
            raise InputError(
                f"{run}: is of another config, or of other flags; remove it, or use other --runs"
            )
        if not read_results(run):
            run_train_py(*named, "--resume")
    return find_run("", Path(runs), name)[0]


def summary(results: list[dict]) -> dict:
    """Accuracies of the test, or of validation where nothing was tested.

    Raises:
        InputError: there was neither.
    """
    name = "test_accuracy" if results[0].get("test_accuracy") is not None else "val_accuracy"
    accuracies = [result[name] for result in results]
    if None in accuracies:
        raise InputError(
            "no accuracy: leave --trainer.limit_test_batches out, or set --data.val_fraction above 0"
        )
    return {
        f"mean_{name}": statistics.mean(accuracies),
        "standard_deviation": statistics.stdev(accuracies) if len(accuracies) > 1 else "",
        "each_seed": ", ".join(f"{accuracy:.4f}" for accuracy in accuracies),
        "train_seconds": ", ".join(f"{result['train_seconds']:.0f}" for result in results),
        "images_per_second": ", ".join(f"{result['images_per_second']:,.0f}" for result in results),
    }


def draw(metrics: dict[int, list[dict]], title: str, path: Path) -> None:
    """A chart for each of `CURVES`: every seed thin, their mean thick, and the range between the extremes shaded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (key, name) in zip(figure.subplots(1, len(CURVES)), CURVES.items(), strict=True):
        curves = [[float(row[key]) for row in rows if row[key]] for rows in metrics.values()]
        epochs = range(1, 1 + min(map(len, curves)))
        by_epoch = list(zip(*curves, strict=False))
        for curve in curves:
            axes.plot(epochs, curve[: len(epochs)], color="tab:blue", linewidth=0.6)
        axes.plot(
            epochs, [statistics.mean(values) for values in by_epoch], color="tab:blue", linewidth=2
        )
        axes.fill_between(
            epochs, [*map(min, by_epoch)], [*map(max, by_epoch)], color="tab:blue", alpha=0.2
        )
        axes.set(title=name, xlabel="epoch")
        axes.grid(alpha=0.3)
    figure.suptitle(f"{title}: {len(metrics)} seeds")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    with exit_on_input_error():
        main()
