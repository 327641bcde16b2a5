"""Regenerate the report of a run.

python -m src.extras.report data/runs/mnist/version_0    # writes report.html in the run
"""

import sys
from argparse import RawDescriptionHelpFormatter

from src.cli.messages import silence_lightning
from src.errors import ArgumentParser, InputError, exit_on_input_error
from src.extras.report.evaluation import evaluate
from src.extras.report.report import write_report
from src.runs.directory import find_checkpoint


def main(args: list[str]) -> None:
    parser = ArgumentParser(
        prog="python -m src.extras.report",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="run directory, or folder of runs (its newest run is used)",
    )
    path = parser.parse_args(args).run
    silence_lightning()
    checkpoint = find_checkpoint(path)
    if checkpoint.suffix != ".ckpt" or not checkpoint.is_file():
        raise InputError(
            f"{path}: not a run with a checkpoint; pass a run such as data/runs/mnist/version_0"
        )
    run = checkpoint.parent.parent
    run = run if run.parent.name else run.absolute()  # `.` has no parent name
    print(write_report(run, evaluate(run)))


if __name__ == "__main__":
    with exit_on_input_error():
        main(sys.argv[1:])
