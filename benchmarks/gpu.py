"""Run every benchmark that needs a GPU, most important first, and write a table to docs/gpu.md.

    python -m benchmarks.gpu                               all rows (takes hours)
    python -m benchmarks.gpu --rows speed cifar10_fast     only these rows
    timeout 90m python -m benchmarks.gpu                   as many rows as fit in 90 minutes
    python -m benchmarks.gpu --dry-run                     on the CPU, scaled down (takes minutes)

Prints the table and writes it between the markers in docs/gpu.md. Rows that have not been measured
yet are omitted. You can stop it at any time and run it again to continue: it resumes the runs in
`data/gpu` and keeps finished rows in `data/gpu/figures.json`.
"""

import argparse
import datetime
import importlib.metadata
import json
import multiprocessing
import os
import shutil
import signal
import statistics
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from benchmarks.flops import FROM_CIFAR100, count, peak_of
from benchmarks.peers import Shape
from benchmarks.tables import Row, Rows, make_parser, table
from benchmarks.throughput import Setting, measure_speed
from benchmarks.training_step import measure_recipe
from src.cli.messages import silence_lightning
from src.errors import InputError, exit_on_input_error
from src.runs.atomic import write_atomically
from src.runs.results import read_metrics, read_results
from train import main as train

PAGE = Path("docs/gpu.md")
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"
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
    "cifar100": (0.75,),
    "cifar10_finetune": (),
    "cifar10_tutorial": (0.83,),
    "cifar10_best": (0.97,),
}
SPEEDS = [config for config in GOALS if config != "cifar10_finetune"]  # same network as cifar100
VIT_TI = Shape(image_size=32, channels=3, patch_size=4, width=192, depth=12, heads=3)
PEERS = {  # label: (library, whether the network is compiled)
    "ours, compiled": ("ours", True),
    "ours, eager": ("ours", False),
    "timm, eager": ("timm", False),
    "torchvision, eager": ("torchvision", False),
}
TINY = """
--pictures false
--model.width 32
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
    parser.add_argument(
        "--dry-run", action="store_true", help="test on the CPU; write the page to the run folder"
    )
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        raise InputError("no CUDA device found; use --dry-run to test the benchmark on the CPU")
    if options.dry_run:
        os.environ["TORCH_COMPILE_DISABLE"] = "1"  # compilation takes a minute
    silence_lightning()
    bench = Bench(options)
    for row in every:
        if row in options.rows:
            bench.speeds() if row == "speed" else bench.training(row)
    bench.write()
    print(bench.table(), f"\nWritten to {bench.page}", sep="\n")


class Bench:
    """Measure table rows and save each one immediately."""

    def __init__(self, options: argparse.Namespace):
        self.dry_run = options.dry_run
        self.root = options.root
        self.runs = options.runs or Path("data/gpu_dry_run" if self.dry_run else "data/gpu")
        self.page = self.runs / "gpu.md" if self.dry_run else PAGE
        self.state = self.runs / "figures.json"
        self.device = "cpu" if self.dry_run else "cuda"
        saved = self.state.read_text() if self.state.is_file() else "{}"
        self.figures: Rows = json.loads(saved)

    # Speeds ---------------------------------------------------------------------------------------

    def speeds(self) -> None:
        """Time bare steps and `train.py` for each recipe, and ViT-Ti in several libraries."""
        seconds = 0.0 if self.dry_run else 5.0
        for config in SPEEDS:
            flags = ["--config", f"configs/{config}.yaml", *(TINY if self.dry_run else [])]
            if (row := f"{config}, bare steps") not in self.figures:
                speed, memory = in_process(measure_recipe, flags, self.device, seconds)
                self.add(row, self.speed_cells(config, speed, memory))
            if (row := f"{config}, train.py") not in self.figures:
                self.add(row, self.train_py_speed(config))
        precision, batch = ("32-true", 2) if self.dry_run else ("bf16-mixed", 512)
        for name, (library, compiled) in PEERS.items():
            if (row := f"ViT-Ti, 32 px, {name}") not in self.figures:
                setting = Setting(self.device, precision, compiled, batch, seconds)
                speed, memory = in_process(measure_speed, library, VIT_TI, setting)
                self.add(row, {"images/s": f"{speed:,.0f}", "GPU GiB": memory})

    def train_py_speed(self, config: str) -> Row:
        """Return the median speed of a short run, excluding the first epoch (compilation)."""
        name, batches = f"speed_{config}", "3" if self.dry_run else "150"
        shutil.rmtree(self.runs / name, ignore_errors=True)
        short = [*self.limits(), *SPEED_ONLY, "--trainer.limit_train_batches", batches]
        self.train("--config", f"configs/{config}.yaml", "--name", name, *short)
        run = self.runs / name / "version_0"
        speeds = [float(row["images_per_second"]) for row in read_metrics(run)[1:]]
        memory = read_results(run)["gpu_gib"]
        return self.speed_cells(config, statistics.median(speeds), memory)

    def speed_cells(self, config: str, speed: float, memory: float | None) -> Row:
        """Return the speed, utilization and memory cells of a row."""
        peak = None if self.dry_run else peak_of(torch.cuda.get_device_name())
        share = "-"
        if peak:
            share = f"{speed * count(config, 50_000).per_image / peak:.2f}"
        return {"images/s": f"{speed:,.0f}", "share of peak": share, "GPU GiB": memory}

    # Training runs --------------------------------------------------------------------------------

    def training(self, config: str) -> None:
        """Start or resume a training run, and add its results to the table."""
        run, source = self.runs / config / "version_0", self.runs / "cifar100" / "version_0"
        if config in self.figures:
            return
        fine_tuning = config == "cifar10_finetune"
        if fine_tuning and not read_results(source):
            print("Skipped cifar10_finetune, because it needs a finished cifar100 run")
            return
        if (run / "checkpoints" / "last.ckpt").is_file():
            self.train("--resume", str(run))
        else:
            shutil.rmtree(run.parent, ignore_errors=True)  # the run has no checkpoint
            start = [*FROM_CIFAR100, str(source)] if fine_tuning else []
            self.train("--config", f"configs/{config}.yaml", *start, *self.limits())
        for row, cells in self.training_rows(config, run).items():
            self.add(row, cells)

    def training_rows(self, config: str, run: Path) -> Rows:
        """Return the results of a finished run, and the time to each goal.

        Times are multiples of the median epoch time; compilation has a separate row.
        """
        results, metrics = read_results(run), read_metrics(run)
        batch = results["images_seen"] / int(metrics[-1]["step"])
        images, steps = [], 0
        for row in metrics:
            images.append((int(row["step"]) - steps) * batch)
            steps = int(row["step"])
        speeds = [float(row["images_per_second"]) for row in metrics]
        epoch = statistics.median(n / speed for n, speed in zip(images, speeds, strict=True))
        accuracies = [float(row["val_accuracy"] or 0) for row in metrics]
        rows: Rows = {
            config: {
                "accuracy": f"{results['test_accuracy']:.4f}",
                "epochs": len(metrics),
                "seconds": f"{results['train_seconds']:,.1f}",
                **self.speed_cells(config, images[0] / epoch, results["gpu_gib"]),
            }
        }
        for goal in GOALS[config]:
            cells: Row = {"accuracy": "not reached"}
            if max(accuracies) >= goal:
                reached = next(n for n, value in enumerate(accuracies, 1) if value >= goal)
                accuracy, seconds = f"{accuracies[reached - 1]:.4f}", f"{reached * epoch:,.1f}"
                cells = {"accuracy": accuracy, "epochs": reached, "seconds": seconds}
            rows[f"{config}, to {goal} on validation images"] = cells
        other = results["train_seconds"] - len(metrics) * epoch
        rows[f"{config}, compiling, starting, saving"] = {"seconds": f"{other:,.1f}"}
        return rows

    def limits(self) -> list[str]:
        return ["--data.root", self.root, *(TINY + SHORT if self.dry_run else [])]

    def train(self, *flags: str) -> None:
        """Run `train.py` in a new process; exit with its exit code on failure."""
        if code := in_process(run_train, [*flags, "--runs", str(self.runs)]):
            raise SystemExit(code)

    # The page -------------------------------------------------------------------------------------

    def add(self, row: str, cells: Row) -> None:
        """Add a row with the device, library versions and date, and save the table."""
        libraries = ["torch", *(name for name in ("timm", "torchvision") if name in row)]
        versions = [f"{name} {importlib.metadata.version(name)}" for name in libraries]
        self.figures[row] = cells | {
            "device": "cpu" if self.dry_run else torch.cuda.get_device_name(),
            "versions": ", ".join(versions),
            "date": str(datetime.date.today()),
        }
        self.write()

    def write(self) -> None:
        """Save the numbers as JSON, and write the table between the markers of the page."""
        write_atomically(self.state, (json.dumps(self.figures, indent=2) + "\n").encode())
        text = self.page.read_text() if self.page.is_file() else BEGIN + END
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        write_atomically(self.page, f"{before}{BEGIN}{self.table()}\n{END}{after}".encode())

    def table(self) -> str:
        measured = {row: self.figures[row] for row in row_names() if row in self.figures}
        for row, cells in measured.items():
            present = {key: value for key, value in cells.items() if value is not None}
            measured[row] = dict.fromkeys(COLUMNS, "-") | present
        return table(measured, COLUMNS) if measured else "Not measured yet."


def row_names() -> list[str]:
    """Return the row names in table order."""
    rows = []
    for config in SPEEDS:
        rows += [f"{config}, bare steps", f"{config}, train.py"]
    rows += [f"ViT-Ti, 32 px, {name}" for name in PEERS]
    for config, goals in GOALS.items():
        rows += [config, *(f"{config}, to {goal} on validation images" for goal in goals)]
        rows.append(f"{config}, compiling, starting, saving")
    return rows


def in_process(function: Callable, *arguments: Any) -> Any:
    """Call a function in a new process, to free its memory; the process dies with its parent."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["src.cli.parser", "src.training.test", __name__])
    with ProcessPoolExecutor(1, context, initializer=_end_with_parent) as pool:
        return pool.submit(function, *arguments).result()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)  # safe at any time: checkpoints are atomic

    threading.Thread(target=watch, daemon=True).start()


def run_train(flags: list[str]) -> int:
    """Run `train.py` with these flags and return its exit code."""
    try:
        with exit_on_input_error():
            train(flags)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


if __name__ == "__main__":
    with exit_on_input_error():
        main()
