"""Every figure that needs a GPU, in order of value: speeds first, then the recipes. Writes `benchmarks/gpu.md`.

    python -m benchmarks.gpu                               all rows; hours
    python -m benchmarks.gpu --rows speed cifar10_fast     some of them
    python -m benchmarks.gpu --hours 1.5                   what fits into so much time
    python -m benchmarks.gpu --dry-run                     on the CPU, with tiny limits: whether it works

It may be stopped at any time, and goes on where it was when it is started again: trainings are resumed from their runs
in `data/gpu`, and the figures that are finished stand in `data/gpu/figures.json`. Rows not run stand as '-'.
"""

import argparse
import datetime
import importlib.metadata
import json
import math
import multiprocessing
import os
import shutil
import signal
import statistics
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from pathlib import Path

import torch

from benchmarks.flops import FROM_CIFAR100, count, peak_of
from benchmarks.speed import VIT_TI, measure_network, measure_recipe
from src.cli.messages import quiet
from src.errors import InputError, exit_on_input_error
from src.runs.atomic import write_atomically
from src.runs.results import read_metrics
from train import main as train

PAGE = Path("benchmarks/gpu.md")
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"
COLUMNS = (
    "accuracy",
    "passes",
    "seconds",
    "images/s",
    "share of peak",
    "GPU GiB",
    "device",
    "versions",
    "date",
)
GOALS = {  # the trainings in order of value, and the validation accuracies whose time is stated
    "cifar10_fast": (0.94, 0.95),
    "cifar10": (0.95,),
    "cifar100": (0.75,),
    "cifar10_finetune": (),
    "cifar10_tutorial": (0.83,),
    "cifar10_best": (0.97,),
}
SPEEDS = [
    config for config in GOALS if config != "cifar10_finetune"
]  # which has cifar100's network
TINY = """--model.width 32 --model.depth 1 --model.heads 2 --model.compile false --data.batch_size 8
    --data.val_fraction 0.5 --trainer.accelerator cpu""".split()
DRY = [
    *TINY,
    *"--trainer.max_epochs 2 --trainer.limit_train_batches 3 --trainer.limit_test_batches 1".split(),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", nargs="+", choices=["speed", *GOALS], default=["speed", *GOALS], metavar="ROW"
    )
    parser.add_argument(
        "--hours", type=float, default=math.inf, help="stop when so much time is over"
    )
    parser.add_argument("--root", default="data", help="folder that holds the datasets")
    parser.add_argument(
        "--runs", type=Path, help="folder of the runs; data/gpu, or data/gpu_dry_run"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="on the CPU; its table is written into the runs' folder",
    )
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        raise InputError("there is no CUDA device here; use --dry-run to see whether it would work")
    if options.dry_run:
        os.environ["TORCH_COMPILE_DISABLE"] = "1"  # a minute, and a compiler that need not be there
    quiet()
    bench = Bench(options)
    for row in (row for row in ("speed", *GOALS) if row in options.rows):
        if bench.seconds_left() > 0:
            bench.speeds() if row == "speed" else bench.training(row)
    bench.write()
    print(bench.table(), f"\nWritten to {bench.page}", sep="\n")
    if bench.seconds_left() <= 0:
        print("The time is over; the same command goes on from here")


class Bench:
    """The rows, and what has been measured of them; every new figure is written at once."""

    def __init__(self, options: argparse.Namespace):
        self.dry, self.root = options.dry_run, options.root
        self.runs = options.runs or Path("data/gpu_dry_run" if self.dry else "data/gpu")
        self.page, self.state = (
            self.runs / "gpu.md" if self.dry else PAGE,
            self.runs / "figures.json",
        )
        self.device = "cpu" if self.dry else "cuda"
        self.end = time.monotonic() + options.hours * 3600
        self.figures: dict[str, dict] = (
            json.loads(self.state.read_text()) if self.state.is_file() else {}
        )

    def seconds_left(self) -> float:
        return self.end - time.monotonic()

    # Speeds -----------------------------------------------------------------------------------------------------------

    def speeds(self) -> None:
        """Each recipe on one batch again and again, and as `train.py` runs it; one network of several libraries."""
        for config in SPEEDS:
            flags = ["--config", f"configs/{config}.yaml", *(TINY if self.dry else [])]
            if (row := f"{config}, one batch again and again") not in self.figures:
                speed, memory = apart(measure_recipe, flags, self.device, 1 if self.dry else 50)
                self.add(row, self.speed_of(config, speed, memory))
            if (row := f"{config}, train.py") not in self.figures:
                self.add(row, self.road(config))
        for name in VIT_TI:
            if (row := f"ViT-Ti, 32 px, {name}") not in self.figures:
                speed, memory = apart(
                    measure_network, name, self.device, *((2, 1) if self.dry else (512, 50))
                )
                self.add(row, {"images/s": f"{speed:,.0f}", "GPU GiB": memory})

    def road(self, config: str) -> dict:
        """A short training without validation: the median speed of its passes but for the first, which compiles."""
        short = [
            "--trainer.limit_train_batches",
            "3" if self.dry else "150",
            "--trainer.max_epochs",
            "4",
        ]
        none = ["--trainer.limit_val_batches", "0", "--trainer.limit_test_batches", "0"]
        shutil.rmtree(self.runs / f"speed_{config}", ignore_errors=True)
        self.train(
            "--config",
            f"configs/{config}.yaml",
            "--name",
            f"speed_{config}",
            *self.limits(),
            *short,
            *none,
        )
        run = self.runs / f"speed_{config}" / "version_0"
        speeds = [float(row["images_per_second"]) for row in read_metrics(run)[1:]]
        memory = json.loads((run / "results.json").read_text())["gpu_gib"]
        return self.speed_of(config, statistics.median(speeds), memory)

    def speed_of(self, config: str, speed: float, memory: float | None) -> dict:
        """Cells of the table that follow from images a second."""
        peak = None if self.dry else peak_of(torch.cuda.get_device_name())
        flops = count(config, 50_000, *(TINY if self.dry else []))
        share = f"{speed * (flops.image + flops.step / flops.batch) / peak:.2f}" if peak else "-"
        return {"images/s": f"{speed:,.0f}", "share of peak": share, "GPU GiB": memory}

    # Trainings --------------------------------------------------------------------------------------------------------

    def training(self, config: str) -> None:
        """Begin the training, or go on with it; its rows, when it is done, or how far it has come."""
        run, source = self.runs / config / "version_0", self.runs / "cifar100" / "version_0"
        if "accuracy" in self.figures.get(config, {}):
            return
        if config == "cifar10_finetune" and not (source / "results.json").is_file():
            print("cifar10_finetune: it starts from cifar100, which is not finished")
            return
        if (run / "checkpoints" / "last.ckpt").is_file():
            self.train("--resume", str(run), *self.max_time())
        else:
            shutil.rmtree(
                run.parent, ignore_errors=True
            )  # of a process that was stopped before its first checkpoint
            start = [*FROM_CIFAR100, str(source)] if config == "cifar10_finetune" else []
            self.train(
                "--config", f"configs/{config}.yaml", *start, *self.limits(), *self.max_time()
            )
        if not (run / "results.json").is_file():
            self.add(config, {"passes": f"{len(read_metrics(run))}, not finished"})
            return
        for row, cells in self.training_rows(config, run).items():
            self.add(row, cells)

    def training_rows(self, config: str, run: Path) -> dict[str, dict]:
        """What a finished run gave, and the time to each goal: in passes of its usual length, compiling apart."""
        results, passes = json.loads((run / "results.json").read_text()), read_metrics(run)
        batch = results["images_seen"] / int(passes[-1]["step"])
        steps = [
            int(b["step"]) - int(a["step"])
            for a, b in zip([{"step": 0}, *passes], passes, strict=False)
        ]
        seconds = [
            n * batch / float(row["images_per_second"])
            for n, row in zip(steps, passes, strict=True)
        ]
        usual = statistics.median(seconds)
        rows = {}
        for goal in GOALS[config]:
            reached = [
                n for n, row in enumerate(passes, 1) if float(row.get("val_accuracy") or 0) >= goal
            ]
            cells = {"accuracy": "not reached"}
            if reached:
                accuracy = float(passes[reached[0] - 1]["val_accuracy"])
                cells = {
                    "accuracy": f"{accuracy:.4f}",
                    "passes": reached[0],
                    "seconds": f"{reached[0] * usual:,.1f}",
                }
            rows[f"{config}, to {goal} on validation images"] = cells
        other = results["train_seconds"] - len(passes) * usual
        rows[f"{config}, compiling, starting, saving"] = {"seconds": f"{other:,.1f}"}
        speed = self.speed_of(config, steps[0] * batch / usual, results["gpu_gib"])
        whole = {"accuracy": f"{results['test_accuracy']:.4f}", "passes": len(passes)}
        return rows | {config: whole | {"seconds": f"{results['train_seconds']:,.1f}"} | speed}

    def max_time(self) -> list[str]:
        if math.isinf(self.end):
            return []
        minutes, seconds = divmod(max(1, int(self.seconds_left())), 60)
        return [
            "--trainer.max_time",
            f"{minutes // 1440:02}:{minutes // 60 % 24:02}:{minutes % 60:02}:{seconds:02}",
        ]

    def limits(self) -> list[str]:
        return ["--data.root", self.root, *(DRY if self.dry else [])]

    def train(self, *flags: str) -> None:
        """`train.py`, in a process of its own."""
        if code := apart(run_train, [*flags, "--runs", str(self.runs)]):
            raise SystemExit(code)  # it has said why

    # The table --------------------------------------------------------------------------------------------------------

    def add(self, row: str, cells: dict) -> None:
        name = "cpu" if self.dry else torch.cuda.get_device_name()
        libraries = [
            library
            for library in ("torch", "timm", "torchvision")
            if library == "torch" or library in row
        ]
        versions = ", ".join(
            f"{library} {importlib.metadata.version(library)}" for library in libraries
        )
        self.figures[row] = cells | {
            "device": name,
            "versions": versions,
            "date": str(datetime.date.today()),
        }
        self.write()

    def write(self) -> None:
        """The figures, and the page with the table between its marks; the rest of the page stays."""
        write_atomically(self.state, (json.dumps(self.figures, indent=2) + "\n").encode())
        text = self.page.read_text() if self.page.is_file() else BEGIN + END
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        write_atomically(self.page, f"{before}{BEGIN}{self.table()}\n{END}{after}".encode())

    def table(self) -> str:
        lines = [f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
        for row in row_names():
            cells = [self.figures.get(row, {}).get(column) for column in COLUMNS]
            lines.append(
                f"| {row} | {' | '.join('-' if cell is None else str(cell) for cell in cells)} |"
            )
        return "\n".join(lines)


def row_names() -> list[str]:
    """The rows of the table in order."""
    speeds = [
        f"{config}, {kind}"
        for config in SPEEDS
        for kind in ("one batch again and again", "train.py")
    ]
    rows = speeds + [f"ViT-Ti, 32 px, {name}" for name in VIT_TI]
    for config, goals in GOALS.items():
        rows += [config, *(f"{config}, to {goal} on validation images" for goal in goals)]
        rows.append(f"{config}, compiling, starting, saving")
    return rows


def apart(function, *arguments):
    """The function's result, from a process of its own, whose memory is free afterwards; it ends when this one does."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        ["train", "src.cli.parser", "src.training.test", "benchmarks.speed"]
    )
    with ProcessPoolExecutor(1, processes, initializer=end_with_parent) as pool:
        return pool.submit(function, *arguments).result()


def end_with_parent() -> None:
    def watch() -> None:
        wait([multiprocessing.parent_process().sentinel])
        os.kill(
            os.getpid(), signal.SIGKILL
        )  # at any instant: checkpoints are written whole or not at all

    threading.Thread(target=watch, daemon=True).start()


def run_train(flags: list[str]) -> int:
    """`python train.py` with these flags: its exit code."""
    try:
        with exit_on_input_error():
            train(flags)
    except SystemExit as end:
        return end.code or 0
    return 0


if __name__ == "__main__":
    with exit_on_input_error():
        main()
