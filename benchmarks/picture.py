"""Draw the figure for the README: learning curves, test images, and the most confident mistakes.

python -m benchmarks.picture data/runs/mnist/version_0
"""

from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure, FigureBase

from benchmarks.tables import make_parser
from src.errors import InputError, exit_on_input_error
from src.extras.report.evaluation import Evaluation, evaluate
from src.runs.results import read_metrics

IMAGES = 12


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path, help="directory of a finished run")
    parser.add_argument("--output", type=Path, default=Path("docs/images/training.png"))
    options = parser.parse_args()
    evaluation = evaluate(options.run)
    if evaluation is None:
        raise InputError(f"{options.run}: no test or validation images; pass a different run")
    mistakes = len(evaluation) - int(evaluation.correct.sum())

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    curves, first, last = figure.subfigures(1, 3)
    draw_curves(curves, options.run)
    first.suptitle(f"{evaluation.kind} images", fontsize=10)
    draw_images(first, evaluation, range(IMAGES))
    title = f"most confident of {mistakes} mistakes in {len(evaluation):,}"
    last.suptitle(title, fontsize=10)
    draw_images(last, evaluation, evaluation.confident_mistakes(IMAGES).tolist())
    figure.savefig(options.output, dpi=110)
    print(options.output)


def draw_curves(figure: FigureBase, run: Path) -> None:
    figure.suptitle("accuracy", fontsize=10)
    axes = figure.subplots()
    rows = read_metrics(run)
    for key, label in (("train_accuracy", "training (augmented)"), ("val_accuracy", "validation")):
        points = [(int(row["epoch"]) + 1, float(row[key])) for row in rows if row[key]]
        if points:  # not every run has validation
            axes.plot(*zip(*points, strict=True), marker=".", label=label)
    axes.set(xlabel="epoch", ylabel="accuracy")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")


def draw_images(figure: FigureBase, evaluation: Evaluation, indices: Iterable[int]) -> None:
    """Draw a 3x4 grid of images with their predicted classes, wrong ones in red."""
    every = figure.subplots(3, 4).flat
    for axes in every:
        axes.axis("off")
    for axes, index in zip(every, indices, strict=False):
        guess = evaluation.classes[evaluation.predicted[index]]
        target = evaluation.classes[evaluation.labels[index]]
        (image,), _ = evaluation.images.__getitems__([index])
        axes.imshow(image.permute(1, 2, 0).squeeze().numpy(), cmap="gray")
        right = guess == target
        text = guess if right else f"{guess}, is {target}"
        axes.set_title(text, fontsize=8, color="black" if right else "crimson", pad=2)


if __name__ == "__main__":
    with exit_on_input_error():
        main()
