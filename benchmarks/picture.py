"""Draw the README's picture from a finished run: its curves, test images, and the mistakes it is surest of.

python -m benchmarks.picture data/runs/mnist/version_0 --output benchmarks/picture.png
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from classify import dataset_of
from src.errors import InputError, exit_on_input_error
from src.inference.predictor import Predictor
from src.runs.directory import find_checkpoint
from src.runs.results import read_metrics


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="directory of a finished run")
    parser.add_argument("--output", default="picture.png")
    options = parser.parse_args()
    if not Path(options.output).absolute().parent.is_dir():
        raise InputError(f"--output {options.output}: its folder is not there; make it first")
    predictor = Predictor(find_checkpoint(options.run), "cpu")
    test = dataset_of(predictor, None)
    batches = torch.arange(len(test)).split(500)
    probabilities = torch.cat([predictor.probabilities(test.images[batch]) for batch in batches])
    confidence, predicted = probabilities.max(dim=1)
    wrong = (predicted != test.labels).nonzero().flatten()
    surest = wrong[confidence[wrong].argsort(descending=True)][:12]

    figure = plt.figure(figsize=(11, 3.6), layout="constrained")
    curves, right, mistakes = figure.subfigures(1, 3, width_ratios=[1, 1, 1])
    draw_curves(curves, options.run)
    draw_images(right, "test images", predictor, test, range(12), predicted)
    draw_images(
        mistakes,
        f"the surest of {len(wrong)} mistakes in {len(test):,}",
        predictor,
        test,
        surest,
        predicted,
    )
    figure.savefig(options.output, dpi=110)


def draw_curves(figure, run: str) -> None:
    rows = read_metrics(Path(run))
    axes = figure.subplots()
    for key, label in (("train_accuracy", "training (augmented)"), ("val_accuracy", "validation")):
        points = [
            (int(row["epoch"]) + 1, float(row[key])) for row in rows if row[key]
        ]  # not all runs validate
        if points:
            axes.plot(*zip(*points, strict=True), marker=".", label=label)
    axes.set(xlabel="epoch", ylabel="accuracy")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.suptitle("curves", fontsize=10)


def draw_images(figure, title: str, predictor: Predictor, test, indices, predicted) -> None:
    """A 3 x 4 grid, each image with its predicted class; in red, with the target, where it is wrong."""
    figure.suptitle(title, fontsize=10)
    for axes, index in zip(figure.subplots(3, 4).flat, indices, strict=False):
        guess, target = predictor.classes[predicted[index]], predictor.classes[test.labels[index]]
        axes.imshow(test.images[index].permute(1, 2, 0).squeeze().numpy(), cmap="gray")
        text, color = (guess, "black") if guess == target else (f"{guess}, is {target}", "crimson")
        axes.set_title(text, fontsize=8, color=color, pad=2)
        axes.axis("off")


if __name__ == "__main__":
    with exit_on_input_error():
        main()
