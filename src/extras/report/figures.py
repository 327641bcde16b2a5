"""Draw curves, images and evaluations for TensorBoard and the report.

Draw and render figures inside a `plain_text` block. Importing this module imports matplotlib.
"""

import contextlib
import io
import math
import warnings
from collections.abc import Iterator

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from torch import Tensor

from src.errors import printable
from src.extras.report.contact_sheet import fit, overlay_attention, to_picture
from src.extras.report.evaluation import BINS, Evaluation
from src.extras.report.run_files import Row

# Columns of metrics.csv by panel title.
PANELS = {
    "loss": ("train_loss", "val_loss"),
    "accuracy": ("train_accuracy", "val_accuracy"),
    "learning rate": ("learning_rate",),
    "images per second": ("images_per_second",),
}

LONGEST = 14  # maximum length of a class name, in characters
LONGEST_RUN = 30  # maximum length of a run name, which can be a path
LARGEST = 1e30  # matplotlib cannot scale axes to much larger values
MAX_COUNTED = 20  # with more classes, confusion matrices are drawn without counts
MAX_NAMED = 120  # with more classes, confusion matrices are drawn without class names


@contextlib.contextmanager
def plain_text() -> Iterator[None]:
    """Draw text literally, without math formulas and without font warnings.

    Class names and run names can contain dollar signs, which matplotlib would parse as math, and
    characters that are missing from the font, which are drawn as empty boxes.
    """
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def png(figure: Figure) -> bytes:
    """Render a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def shorten(name: str) -> str:
    """Shorten a class name so that it fits under an image."""
    name = printable(name)
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


# Curves -------------------------------------------------------------------------------------------


def curves(runs: dict[str, list[Row]]) -> Figure:
    """Plot the curves of one or more runs, with training metrics dotted and all others solid.

    Args:
        runs: rows of metrics.csv, keyed by run name.
    """
    figure = Figure(figsize=(10.4, 6.8), layout="constrained")
    for axes, (panel, columns) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        for number, (name, rows) in enumerate(runs.items()):
            for column in columns:
                _draw_curve(axes, name, rows, column, f"C{number}")
        axes.set(title=panel, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        if axes.lines:
            axes.legend(fontsize=8)
    return figure


def _draw_curve(axes: Axes, name: str, rows: list[Row], column: str, color: str) -> None:
    points = [
        (row["epoch"] + 1, row[column])
        for row in rows
        if abs(row.get(column, math.inf)) < LARGEST and row["epoch"] < LARGEST
    ]
    if points:
        epochs, values = zip(*points, strict=True)
        label = f"{column.replace('_', ' ')}, {name[-LONGEST_RUN:]}"
        style = ".:" if column.startswith("train") else ".-"
        axes.plot(
            epochs,
            values,
            style,
            color=color,
            label=label,
            markersize=3,
        )


# Images -------------------------------------------------------------------------------------------


def tiles(images: Tensor, captions: list[str], columns: int, color: str = "black") -> Figure:
    """Draw a grid of images with captions.

    Args:
        images: uint8 [n, C, H, W].
        captions: one caption per image, with one or two lines.
        columns: number of images per row.
        color: text color of the captions.
    """
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(1.1 * columns, 1.4 * rows))
    axes = figure.add_axes((0, 0, 1, 1))
    pixels = images.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()
    for number, (image, caption) in enumerate(zip(pixels, captions, strict=True)):
        y, x = divmod(number, columns)
        axes.imshow(image, extent=(x + 0.05, x + 0.95, y + 0.74, y + 0.04))
        axes.text(
            x + 0.5,
            y + 0.76,
            caption,
            ha="center",
            va="top",
            fontsize=8.5,
            color=color,
        )
    axes.set(xlim=(0, columns), ylim=(rows, 0), aspect="auto")  # last, because imshow changes them
    axes.axis("off")
    return figure


def confident_mistakes(evaluation: Evaluation, n: int, columns: int) -> Figure:
    """Draw the `n` most confident mistakes. There must be at least one mistake."""
    indices = evaluation.confident_mistakes(n)
    images, labels = evaluation.images.__getitems__(indices)
    names = [shorten(name) for name in evaluation.classes]
    captions = [
        f"{names[prediction]} {confidence:.0%}\ntrue: {names[label]}"
        for prediction, confidence, label in zip(
            evaluation.predicted[indices], evaluation.confidence[indices], labels, strict=True
        )
    ]
    return tiles(images, captions, columns, color="firebrick")


def attention(images: Tensor, maps: Tensor, captions: list[str], columns: int) -> Figure:
    """Draw each image next to its attention overlay.

    Args:
        images: uint8 [n, C, H, W].
        maps: float32 [n, S, S].
        captions: one caption per image.
        columns: number of images and overlays per row.
    """
    pixels, texts = [], []
    for image, attention, caption in zip(images, maps, captions, strict=True):
        pictures = (fit(to_picture(image)), overlay_attention(image, attention))
        pixels += [np.asarray(picture) for picture in pictures]
        texts += [caption, "attention"]
    return tiles(torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2), texts, columns)


# Evaluation ---------------------------------------------------------------------------------------


def confusion(evaluation: Evaluation) -> Figure:
    """Draw the confusion matrix, shaded by the fraction of each true class (row)."""
    counts, k = evaluation.confusion(), len(evaluation.classes)
    fraction = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    side = min(12.0, max(4.0, 1.2 + 0.4 * k))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shade = fraction.sqrt()  # the square root makes rare mistakes visible
    axes.imshow(shade.numpy(), cmap="Blues", vmin=0, vmax=1)
    if k <= MAX_COUNTED:
        for row, column in counts.nonzero().tolist():
            color = "white" if fraction[row, column] > 0.3 else "black"
            axes.text(
                column,
                row,
                str(int(counts[row, column])),
                ha="center",
                va="center",
                fontsize=8,
                color=color,
            )
    if k <= MAX_NAMED:
        names = [shorten(name) for name in evaluation.classes]
        fontsize = 9 if k <= MAX_COUNTED else 5
        rotation = 0 if max(map(len, names)) <= 2 else 90
        axes.set_xticks(range(k), names, fontsize=fontsize, rotation=rotation)
        axes.set_yticks(range(k), names, fontsize=fontsize)
    correct = int(evaluation.correct.sum())
    title = f"{correct:,} of {len(evaluation):,} {evaluation.kind} images correct"
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    return figure


def reliability(evaluation: Evaluation) -> Figure:
    """Draw a reliability diagram (Guo et al. 2017) above a histogram of confidences."""
    count, _, accuracy = evaluation.reliability()
    _, _, before = evaluation.reliability(calibrated=False)
    figure = Figure(figsize=(5.2, 4.8), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    edges = torch.linspace(0, 1, BINS + 1).numpy()
    upper.stairs(accuracy.numpy(), edges, fill=True)
    upper.stairs(before.numpy(), edges, color="C1", label="without the temperature")
    upper.plot([0, 1], [0, 1], "k--")
    upper.legend(fontsize=8, loc="upper left")
    title = f"expected calibration error {evaluation.calibration_error():.4f}"
    upper.set(
        ylabel="accuracy",
        xlim=(0, 1),
        ylim=(0, 1),
        title=title,
    )
    lower.stairs(count.numpy(), edges, fill=True)
    lower.set(
        xlabel="confidence",
        ylabel="images",
        yscale="log",
        ylim=(0.5, None),
    )
    # The default formatter of log axes writes powers as math text.
    lower.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return figure
