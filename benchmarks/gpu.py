"""Run every benchmark that needs a GPU, most important first, and print a table for docs/gpu.md.

    python -m benchmarks.gpu                               all rows (takes hours)
    python -m benchmarks.gpu --rows speed cifar10_fast     only these rows
    timeout 90m python -m benchmarks.gpu                   as many rows as fit in 90 minutes
    python -m benchmarks.gpu --dry-run                     on the CPU, scaled down (takes minutes)

You can stop it at any time and run it again to continue: it resumes the runs in `data/gpu` and
keeps finished rows in `data/gpu/figures.json`.
"""

import argparse
import datetime
import importlib.metadata
import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.flops import count, peak_of
from benchmarks.interleaved import Timed
from benchmarks.peers import Shape
from benchmarks.tables import Row, Rows, make_parser, table
from benchmarks.throughput import Contender, Setting
from benchmarks.training import run_train_py, train
from benchmarks.training_step import recipe_step
from src.cli.messages import silence_lightning
from src.cli.parser import parse
from src.errors import InputError, exit_on_input_error
from src.runs.atomic import write_atomically
from src.runs.results import read_metrics, read_results

COLUMNS = (
    "accuracy",
    "epochs",
    "seconds",
    "images/s",
    "share of peak",
    "GPU GiB",
    "device",
    "versions",
    "date",
)
GOALS = {  # config: validation accuracies; the time to reach each is reported
    "cifar10_fast": (0.94, 0.95),
    "cifar10": (0.95,),
    "cifar10_tutorial": (0.83,),
    "cifar10_best": (0.97,),
}
VIT_TI = Shape(image_size=32, channels=3, patch_size=4, width=192, depth=12, heads=3)
PEERS = {  # label: (library, whether the network is compiled)
    "ours, compiled": ("ours", True),
    "ours, eager": ("ours", False),
    "timm, eager": ("timm", False),
    "torchvision, eager": ("torchvision", False),
}
TINY = """
--pictures false
--model.width 128
--model.depth 1
--model.heads 2
--model.compile false
--data.batch_size 8
--data.val_fraction 0.5
--trainer.accelerator cpu
""".split()
SHORT = """
--trainer.max_epochs 2
--trainer.limit_train_batches 3
--trainer.limit_test_batches 1
""".split()
SPEED_ONLY = """
--trainer.max_epochs 4
--trainer.limit_val_batches 0
--trainer.limit_test_batches 0
""".split()


def main() -> None:
    parser = make_parser(__doc__)
    every = ["speed", *GOALS]
    parser.add_argument("--rows", nargs="+", choices=every, default=every, metavar="ROW")
    parser.add_argument("--root", default="data", help="dataset folder")
    parser.add_argument("--runs", type=Path, help="run folder (default: data/gpu[_dry_run])")
    parser.add_argument("--dry-run", action="store_true", help="test on the CPU")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        raise InputError("no CUDA device found; use --dry-run to test the benchmark on the CPU")
    silence_lightning()
    bench = Bench(options)
    for row in every:
        if row in options.rows:
            bench.speeds() if row == "speed" else bench.training(row)
    rows = {row: dict.fromkeys(COLUMNS, "-") | cells for row, cells in bench.figures.items()}
    print(table(rows, COLUMNS))


class Bench:
    """Measure table rows and save each one immediately."""

    def __init__(self, options: argparse.Namespace):
        self.dry_run = options.dry_run
        self.root = options.root
        self.runs = options.runs or Path("data/gpu_dry_run" if self.dry_run else "data/gpu")
        self.state = self.runs / "figures.json"
        self.device = "cpu" if self.dry_run else "cuda"
        saved = self.state.read_text() if self.state.is_file() else "{}"
        self.figures: Rows = json.loads(saved)

    # Speeds ---------------------------------------------------------------------------------------

    def speeds(self) -> None:
        """Time bare steps and `train.py` for each recipe, and ViT-Ti in several libraries."""
        seconds = 0.0 if self.dry_run else 5.0
        precision, batch = ("32-true", 2) if self.dry_run else ("bf16-mixed", 512)
        for config in GOALS:
            flags = ["--config", f"configs/{config}.yaml", *(TINY if self.dry_run else [])]
            if (row := f"{config}, bare steps") not in self.figures:
                self.reset_memory()
                settings = parse(flags)
                step = recipe_step(settings, self.device, precision)
                time = median_of(Timed(step, seconds, self.device))
                cells = self.speed_cells(config, settings.data.batch_size / time)
                self.add(row, cells | self.memory())
            if (row := f"{config}, train.py") not in self.figures:
                self.add(row, self.train_py_speed(config, flags))
        for name, (library, compiled) in PEERS.items():
            if (row := f"ViT-Ti, 32 px, {name}") not in self.figures:
                self.reset_memory()
                compiled = compiled and not self.dry_run
                setting = Setting(self.device, precision, compiled, batch, seconds)
                speed = median_of(Contender(library, VIT_TI, setting))
                self.add(row, {"images/s": f"{speed:,.0f}"} | self.memory())

    def train_py_speed(self, config: str, flags: list[str]) -> Row:
        """Return the median speed of a short run, excluding the first epoch (compilation)."""
        batches = "3" if self.dry_run else "150"
        limits = [*SPEED_ONLY, "--trainer.limit_train_batches", batches]
        results = train(*flags, "--data.root", self.root, *limits)
        metrics = read_metrics(Path(results["run"]))
        speeds = [float(row["images_per_second"]) for row in metrics[1:]]
        cells = self.speed_cells(config, statistics.median(speeds))
        return cells | {"GPU GiB": results["gpu_gib"] or "-"}

    def speed_cells(self, config: str, speed: float) -> Row:
        """Return the speed and utilization cells of a row."""
        peak = None if self.dry_run else peak_of(torch.cuda.get_device_name())
        share = f"{speed * count(config).per_image / peak:.2f}" if peak else "-"
        return {"images/s": f"{speed:,.0f}", "share of peak": share}

    def reset_memory(self) -> None:
        torch.compiler.reset()  # earlier networks count toward the recompilation limit
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def memory(self) -> Row:
        if self.device == "cpu":
            return {}
        return {"GPU GiB": round(torch.cuda.max_memory_allocated() / 2**30, 1)}

    # Training runs --------------------------------------------------------------------------------

    def training(self, config: str) -> None:
        """Start or resume a training run, and add its results to the table."""
        run = self.runs / config / "version_0"
        if config in self.figures:
            return
        start = ["--resume", str(run)]
        if not (run / "checkpoints" / "last.ckpt").is_file():
            shutil.rmtree(run.parent, ignore_errors=True)  # the run has no checkpoint
            start = ["--config", f"configs/{config}.yaml", "--data.root", self.root]
            start += TINY + SHORT if self.dry_run else []
        run_train_py(*start, "--runs", str(self.runs))
        for row, cells in self.training_rows(config, run).items():
            self.add(row, cells)

    def training_rows(self, config: str, run: Path) -> Rows:
        """Return the results of a finished run, and the time to each goal.

        Times are multiples of the median epoch time; compilation has a separate row.
        """
        results, metrics = read_results(run), read_metrics(run)
        speed = statistics.median(float(row["images_per_second"]) for row in metrics)
        epoch = results["images_seen"] / len(metrics) / speed
        rows: Rows = {
            config: {
                "accuracy": f"{results['test_accuracy']:.4f}",
                "epochs": len(metrics),
                "seconds": f"{results['train_seconds']:,.1f}",
                **self.speed_cells(config, speed),
                "GPU GiB": results["gpu_gib"] or "-",
            }
        }
        accuracies = [float(row["val_accuracy"] or 0) for row in metrics]
        for goal in GOALS[config]:
            reached = [n for n, accuracy in enumerate(accuracies, 1) if accuracy >= goal]
            cells: Row = {"accuracy": "not reached"}
            if reached:
                accuracy, seconds = accuracies[reached[0] - 1], reached[0] * epoch
                cells = {"accuracy": f"{accuracy:.4f}", "epochs": reached[0]}
                cells["seconds"] = f"{seconds:,.1f}"
            rows[f"{config}, to {goal} on validation images"] = cells
        other = results["train_seconds"] - len(metrics) * epoch
        rows[f"{config}, compiling, starting, saving"] = {"seconds": f"{other:,.1f}"}
        return rows

    def add(self, row: str, cells: Row) -> None:
        """Add a row with the device, library versions and date, and save all rows."""
        libraries = ["torch", *(name for name in ("timm", "torchvision") if name in row)]
        versions = [f"{name} {importlib.metadata.version(name)}" for name in libraries]
        self.figures[row] = cells | {
            "device": "cpu" if self.dry_run else torch.cuda.get_device_name(),
            "versions": ", ".join(versions),
            "date": str(datetime.date.today()),
        }
        write_atomically(self.state, (json.dumps(self.figures, indent=2) + "\n").encode())


def median_of(turn: Callable[[], float]) -> float:
    """Return the median of five calls, after a warm-up call."""
    turn()
    return statistics.median(turn() for _ in range(5))


if __name__ == "__main__":
    with exit_on_input_error():
        main()
