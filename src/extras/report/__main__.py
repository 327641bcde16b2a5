"""Regenerate the report of a run, or compare several runs on one page.

python -m src.extras.report data/runs/mnist/version_0                     # report.html in the run
python -m src.extras.report data/runs/mnist/version_0 data/runs/digits    # comparison.html
"""

import os
import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from src.cli.messages import silence_lightning
from src.errors import ArgumentParser, InputError, exit_on_input_error
from src.extras.report.evaluation import evaluate
from src.extras.report.report import write_comparison, write_report
from src.runs.directory import find_checkpoint


def main(args: list[str]) -> None:
    parser = ArgumentParser(
        prog="python -m src.extras.report",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run directory, or folder of runs (its newest run is used)",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="comparison page (default: comparison.html in the common parent folder)",
    )
    options = parser.parse_args(args)
    silence_lightning()
    runs = [find_run(run) for run in options.runs]
    if len(runs) > 1:
        folder = os.path.commonpath([run.absolute() for run in runs])
        output = Path(options.output or f"{folder}/comparison.html")
        print(write_comparison(runs, output))
        return
    if options.output:
        raise InputError(
            "--output is only for several runs; omit it to write the run's report.html"
        )
    print(write_report(runs[0], evaluate(runs[0])))


def find_run(path: str) -> Path:
    """Return the run directory of a path, as in `find_checkpoint`."""
    checkpoint = find_checkpoint(path, flag="RUN")
    if checkpoint.suffix != ".ckpt" or not checkpoint.is_file():
        raise InputError(
            f"{path}: not a run with a checkpoint; pass a run such as data/runs/mnist/version_0"
        )
    run = checkpoint.parent.parent
    return run if run.parent.name else run.absolute()  # `.` has no parent name


if __name__ == "__main__":
    with exit_on_input_error():
        main(sys.argv[1:])
