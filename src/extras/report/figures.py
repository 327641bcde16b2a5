"""Draw curves, images, evaluations and weights for TensorBoard and the report.

Draw and render figures inside a `plain_text` block. Importing this module imports matplotlib.
"""

import contextlib
import io
import math
import warnings
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn
from torchvision.utils import make_grid

from src.errors import printable
from src.extras.report.contact_sheet import overlay_attention
from src.extras.report.evaluation import BINS, Evaluation
from src.models.vit import VisionTransformer
from src.transforms.patchify import unpatchify

# Columns of metrics.csv by panel title.
PANELS = {
    "loss": ("train_loss", "val_loss"),
    "accuracy": ("train_accuracy", "val_accuracy"),
    "learning rate": ("learning_rate",),
    "images per second": ("images_per_second",),
}

LONGEST = 14  # maximum length of a class name, in characters
MAX_COUNTED = 20  # with more classes, confusion matrices are drawn without counts
MAX_FILTERS = 64
COMPONENTS = 28  # as in figure 7 of the ViT paper
MAX_NAMED = 120  # with more classes, confusion matrices are drawn without class names


@contextlib.contextmanager
def plain_text() -> Iterator[None]:
    """Draw text literally, without math formulas and without font warnings.

    Class names can contain dollar signs, which matplotlib would parse as math, and characters that
    are missing from the font, which are drawn as empty boxes.
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


def curves(rows: list[dict[str, str]]) -> Figure:
    """Plot the rows of metrics.csv, with training metrics dotted and all others solid."""
    figure = Figure(figsize=(10.4, 6.8), layout="constrained")
    for axes, (panel, columns) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        for column in columns:
            kept = [row for row in rows if row.get(column)]
            epochs = [int(row["epoch"]) + 1 for row in kept]
            values = [float(row[column]) for row in kept]
            style = ".:" if column.startswith("train") else ".-"
            axes.plot(epochs, values, style, color="C0", label=column.replace("_", " "))
        axes.set(title=panel, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    return figure


# Images -------------------------------------------------------------------------------------------


def tiles(images: Tensor, captions: list[str], columns: int) -> Figure:
    """Draw a grid of images with captions.

    Args:
        images: uint8 [n, C, H, W].
        captions: one caption per image, with one or two lines.
        columns: number of images per row.
    """
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(1.2 * columns, 1.5 * rows))
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid:
        axes.axis("off")
    pixels = images.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()
    for axes, image, caption in zip(grid, pixels, captions, strict=False):
        axes.imshow(image)
        axes.set_title(caption, fontsize=8.5)
    figure.subplots_adjust(0, 0.02, 1, 0.9)
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
    return tiles(images, captions, columns)


def attention(images: Tensor, maps: Tensor, captions: list[str], columns: int) -> Figure:
    """Draw the attention maps over their images.

    Args:
        images: uint8 [n, C, H, W].
        maps: float32 [n, S, S].
        captions: one caption per image.
        columns: number of images per row.
    """
    overlays = [
        np.asarray(overlay_attention(image, attention))
        for image, attention in zip(images, maps, strict=True)
    ]
    return tiles(torch.tensor(np.stack(overlays)).permute(0, 3, 1, 2), captions, columns)


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
    axes.set(xlabel="predicted class", ylabel="true class")
    if k <= MAX_COUNTED:
        for row, column in counts.nonzero().tolist():
            color = "white" if fraction[row, column] > 0.3 else "black"
            count = str(int(counts[row, column]))
            axes.text(column, row, count, ha="center", va="center", fontsize=8, color=color)
    if k <= MAX_NAMED:
        names = [shorten(name) for name in evaluation.classes]
        fontsize = 9 if k <= MAX_COUNTED else 5
        rotation = 0 if max(map(len, names)) <= 2 else 90
        axes.set_xticks(range(k), names, fontsize=fontsize, rotation=rotation)
        axes.set_yticks(range(k), names, fontsize=fontsize)
    return figure


def reliability(evaluation: Evaluation) -> Figure:
    """Draw a reliability diagram (Guo et al. 2017)."""
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    axes = figure.subplots()
    edges = torch.linspace(0, 1, BINS + 1).numpy()
    _, _, accuracy = evaluation.reliability()
    _, _, before = evaluation.reliability(calibrated=False)
    axes.stairs(accuracy.numpy(), edges, fill=True)
    axes.stairs(before.numpy(), edges, color="C1", label="without the temperature")
    axes.plot([0, 1], [0, 1], "k--")
    axes.legend(fontsize=8, loc="upper left")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    return figure


# Weights ------------------------------------------------------------------------------------------


def position_similarity(network: VisionTransformer) -> Figure:
    """Draw the cosine similarities between the position embeddings of all patches.

    Each patch has a map at its position in the image, as in figure 7, center, of the ViT paper.
    """
    side = network.side
    positions = F.normalize(_on_cpu(network.positions)[0, -(side**2) :], dim=1)
    maps = (positions @ positions.T).view(-1, 1, side, side)
    grid = make_grid(maps, nrow=side, padding=max(1, side // 8), pad_value=math.nan)
    figure = _draw_grid(grid[0], "position embedding similarity by patch", vmin=-1, vmax=1)
    figure.colorbar(figure.axes[0].images[0], label="cosine similarity")
    return figure


def filters(network: nn.Module) -> Figure:
    """Draw the filters of the first layer.

    For a patch projection, draw its first principal components (figure 7, left, of the ViT paper).
    """
    first: nn.Module = network.embed if isinstance(network, VisionTransformer) else network
    if isinstance(first, nn.Linear):
        filters, title = _principal_components(network), "principal components of the projection"
    else:
        convolution = next(m for m in first.modules() if isinstance(m, nn.Conv2d))
        filters, title = _on_cpu(convolution.weight)[:MAX_FILTERS], "filters"
    grid = make_grid(filters, padding=1, normalize=True, scale_each=True, pad_value=1.0)
    return _draw_grid(grid.permute(1, 2, 0), f"first {len(filters)} {title}")


def _draw_grid(grid: Tensor, title: str, **options: Any) -> Figure:
    figure = Figure(figsize=(5.6, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.imshow(grid.numpy(), interpolation="nearest", **options)
    axes.axis("off")
    axes.set_title(title)
    return figure


def _principal_components(network: Any) -> Tensor:
    """Return the principal components of the patch projection filters, [n, C, P, P]."""
    weight, P = _on_cpu(network.embed.weight), network.patch_size
    centered = weight - weight.mean(dim=0)
    components = torch.linalg.svd(centered, full_matrices=False).Vh[:COMPONENTS]
    return unpatchify(components[:, None], P, P, components.shape[1] // P**2)


def _on_cpu(weight: Tensor) -> Tensor:
    return weight.detach().float().cpu()
