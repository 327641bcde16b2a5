"""Compare the accuracy and the training compute of CIFAR-10 recipes with published results.

    python -m benchmarks.compute                        print the table; takes seconds
    python -m benchmarks.compute --picture compute.png  also plot accuracy against compute

All networks were trained from scratch. The compute of this project's recipes is counted (see
`benchmarks.flops`), and their accuracies are copied from docs/results.md.
"""

from typing import NamedTuple

from matplotlib.figure import Figure

from benchmarks.flops import count
from benchmarks.tables import Rows, make_parser, table
from src.cli.messages import silence_lightning
from src.errors import exit_on_input_error
from src.inference.output import check_path


class Result(NamedTuple):
    """A training run on CIFAR-10."""

    name: str
    accuracy: float
    pflop: float  # 1e15 floating-point operations in total
    source: str


MEASURED = {
    "cifar10_tutorial_cpu": 0.8364,
    "cifar10_plain_cpu": 0.8882,
    "cifar10_cpu": 0.9340,
    "cifar10_evening": 0.9464,
    "cifar10_night": 0.9514,
}
PUBLISHED = (
    Result("airbench94 with Muon (CNN)", 0.9401, 0.29, "KellerJordan/cifar10-airbench"),
    Result("airbench95 (CNN)", 0.9501, 1.4, "KellerJordan/cifar10-airbench"),
    Result("airbench96_faster (CNN, filtered data)", 0.9600, 3.1, "KellerJordan/cifar10-airbench"),
    Result("CNN stem and 2 blocks", 0.9337, 2.6, "Brokttv/Vit-on-small-data"),
    Result("CCT-7/3x1", 0.9653, 85, "SHI-Labs/Compact-Transformers"),
    Result("plain ViT, patch 4", 0.9358, 17, "aanna0701/SPT_LSA_ViT"),
)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--picture", metavar="PNG", help="file for the plot")
    options = parser.parse_args()
    if options.picture:
        check_path(options.picture, "--picture", ".png", [])
    silence_lightning()
    ours = [
        Result(f"{name}.yaml", accuracy, count(name).total / 1e15, "this project")
        for name, accuracy in MEASURED.items()
    ]
    results = sorted([*ours, *PUBLISHED], key=lambda result: result.pflop)
    rows: Rows = {
        name: {"accuracy": accuracy, "PFLOP": f"{pflop:.2g}", "source": source}
        for name, accuracy, pflop, source in results
    }
    print(table(rows, ("accuracy", "PFLOP", "source")))
    if options.picture:
        draw(ours, options.picture)


def draw(ours: list[Result], path: str) -> None:
    """Plot accuracy against compute, on a logarithmic axis."""
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    axes = figure.subplots()
    groups = (("this project", ours, (6, -3)), ("published", PUBLISHED, (4, 4)))
    for label, results, offset in groups:  # different offsets, so that names do not overlap
        axes.scatter([r.pflop for r in results], [r.accuracy for r in results], label=label)
        for name, accuracy, pflop, _ in results:
            short = name.split(" (")[0]  # "airbench95 (CNN)" -> "airbench95"
            axes.annotate(short, (pflop, accuracy), offset, textcoords="offset points", fontsize=8)
    axes.set(
        xscale="log",
        xlim=(0.2, 400),
        ylim=(0.82, 0.975),
        xlabel="training compute (PFLOP)",
        ylabel="test accuracy",
    )
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    with exit_on_input_error():
        main()
