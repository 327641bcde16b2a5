"""Draw a summary of a finished run, or examples of augmented images.

    python -m benchmarks.picture training data/runs/mnist/version_0
    python -m benchmarks.picture augmentation --output augmented.png --config configs/cifar10.yaml
    python -m benchmarks.picture augmentation --output one.png --same --data.augment.rotate 45

`training` draws the figure in the README: training curves, test images, and the most confident
wrong predictions. `augmentation` draws 64 augmented training images, or 64 augmentations of one
image (--same), with the config and flags of `train.py`. The images should remain recognizable,
except for a few that TrivialAugment moves out of view. Both take a few seconds and print the path
of the output file.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import FigureBase
from PIL import Image
from torch import Tensor

from benchmarks.tables import make_parser
from src.cli.parser import parse
from src.data.image_set import ImageSet
from src.data.splits import open_split
from src.errors import InputError, exit_on_input_error
from src.inference.predictor import Predictor
from src.runs.directory import find_checkpoint
from src.runs.results import read_metrics

SIDE = 8  # images per row and per column of the augmentation grid
MAGNIFY = 3  # scale factor of the augmented images
MISTAKES = 12


def main() -> None:
    parser = make_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("training")
    training.add_argument("run", help="directory of a finished run")
    training.add_argument("--output", type=Path, default="docs/images/training.png")
    training.add_argument("--data", help="dataset folder (default: as in training)")
    augmentation = commands.add_parser("augmentation")
    augmentation.add_argument("--output", type=Path, required=True, help="PNG file to write")
    augmentation.add_argument("--same", action="store_true", help="repeat one image in every cell")
    options, flags = parser.parse_known_args()
    output = options.output
    if output.suffix != ".png" or not output.absolute().parent.is_dir():
        raise InputError(f"--output {output}: not a .png file in an existing folder; pass one")
    if options.command == "training":
        draw_training(options)
    else:
        draw_augmentation(options, flags)
    print(output)


def draw_training(options: argparse.Namespace) -> None:
    predictor = Predictor(find_checkpoint(options.run), "cpu")
    test = open_split(predictor.dataset, "test", root=options.data)
    if test is None:
        raise InputError(f"{options.run}: its dataset has no test images; pass a different run")
    batches = torch.arange(len(test)).split(500)
    probabilities = [predictor.probabilities(test.__getitems__(batch)[0]) for batch in batches]
    confidence, predicted = torch.cat(probabilities).max(dim=1)
    wrong = (predicted != test.labels).nonzero().flatten()
    order = confidence[wrong].argsort(descending=True)
    mistakes = wrong[order][:MISTAKES].tolist()

    figure = plt.figure(figsize=(11, 3.6), layout="constrained")
    curves, first, last = figure.subfigures(1, 3)
    draw_curves(curves, Path(options.run))
    first.suptitle("test images", fontsize=10)
    draw_images(first, predictor, test, range(12), predicted)
    title = f"most confident of {len(wrong)} mistakes in {len(test):,}"
    last.suptitle(title, fontsize=10)
    draw_images(last, predictor, test, mistakes, predicted)
    figure.savefig(options.output, dpi=110)


def draw_curves(figure: FigureBase, run: Path) -> None:
    figure.suptitle("accuracy", fontsize=10)
    axes = figure.subplots()
    rows = read_metrics(run)
    for key, label in (("train_accuracy", "training (augmented)"), ("val_accuracy", "validation")):
        validated = [row for row in rows if row[key]]  # not every run has validation
        if validated:
            epochs = [int(row["epoch"]) + 1 for row in validated]
            axes.plot(epochs, [float(row[key]) for row in validated], marker=".", label=label)
    axes.set(xlabel="epoch", ylabel="accuracy")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")


def draw_images(
    figure: FigureBase,
    predictor: Predictor,
    images: ImageSet,
    indices: Iterable[int],
    predicted: Tensor,
) -> None:
    """Draw a 3x4 grid of images with their predicted classes, wrong ones in red."""
    every = figure.subplots(3, 4).flat
    for axes in every:
        axes.axis("off")
    for axes, index in zip(every, indices, strict=False):
        guess = predictor.classes[predicted[index]]
        target = predictor.classes[images.labels[index]]
        (image,), _ = images.__getitems__([index])
        axes.imshow(image.permute(1, 2, 0).squeeze().numpy(), cmap="gray")
        right = guess == target
        text = guess if right else f"{guess}, is {target}"
        axes.set_title(text, fontsize=8, color="black" if right else "crimson", pad=2)


def draw_augmentation(options: argparse.Namespace, flags: list[str]) -> None:
    data = parse(flags).data
    images = data.read("train")
    assert images
    indices = torch.randperm(len(images))[: SIDE**2]
    batch, _ = images.__getitems__(indices[:1].expand(SIDE**2) if options.same else indices)
    augmented = data.augment(batch, torch.Generator().manual_seed(0))
    std, mean = (torch.tensor(v).view(-1, 1, 1) for v in (data.info.std, data.info.mean))
    Image.fromarray(grid(augmented * std + mean)).save(options.output)


def grid(images: Tensor) -> np.ndarray:
    """Tile images [SIDE**2, C, H, W] in 0 to 1 to uint8 [height, width, C] with white lines."""
    pixels = (images * 255).round().clamp(0, 255).to(torch.uint8)
    pixels = pixels.repeat_interleave(MAGNIFY, 2).repeat_interleave(MAGNIFY, 3)
    pixels = torch.nn.functional.pad(pixels, (2, 2, 2, 2), value=255)
    _, C, H, W = pixels.shape
    rows = pixels.view(SIDE, SIDE, C, H, W).permute(0, 3, 1, 4, 2)
    return rows.reshape(SIDE * H, SIDE * W, C).squeeze(2).numpy()


if __name__ == "__main__":
    with exit_on_input_error():
        main()
