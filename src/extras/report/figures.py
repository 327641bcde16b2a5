"""Figures of a training, for TensorBoard and for the report. Importing this imports matplotlib."""

import io
import math
import warnings

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from torch import Tensor, nn

from src.extras.report.evaluation import BINS, Evaluation
from src.models.stem import ConvStem, Whiten
from src.models.vit import VisionTransformer
from src.transforms.patchify import unpatchify

matplotlib.rcParams["text.parse_math"] = False  # the name of a class may hold a dollar sign
warnings.filterwarnings(
    "ignore", "Glyph .* missing from font"
)  # or a letter that is drawn as an empty box
INK, RED, BLUE, ORANGE = "#1f2933", "#c0392b", "#2f6db5", "#e08214"
DPI = 100  # pixels an inch
PANELS = {  # columns of metrics.csv: of the training, and of the validation
    "loss": ("train_loss", "val_loss"),
    "accuracy": ("train_accuracy", "val_accuracy"),
    "learning rate": ("learning_rate", None),
    "images per second": ("images_per_second", None),
}


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def shown(name: str, longest: int = 16) -> str:
    """The name of a class, short enough to stand under an image, without what no font can show."""
    name = "".join(c if c.isprintable() else "?" for c in name)
    return name if len(name) <= longest else name[: longest - 1] + "…"


# Curves ---------------------------------------------------------------------------------------------------------------


def curves(runs: dict[str, list[dict]], panels: list[str], columns: int) -> Figure:
    """The rows of metrics.csv of one run or several, by the name of the run; `panels` are keys of PANELS."""
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5.2 * columns, 3.4 * rows), dpi=DPI, layout="constrained")
    for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=True):
        _curve(axes, runs, panel)
    return figure


def _curve(axes, runs: dict[str, list[dict]], panel: str) -> None:
    train, val = PANELS[panel]
    for number, (name, rows) in enumerate(runs.items()):
        one = {train: ("training", BLUE, "-"), val: ("validation", ORANGE, "-")}
        several = {
            train: (f"{name}, training", f"C{number}", ":" if val else "-"),
            val: (f"{name}, validation", f"C{number}", "-"),
        }
        for column, (label, color, style) in (one if len(runs) == 1 else several).items():
            points = [
                (int(row["epoch"]) + 1, float(row[column]))
                for row in rows
                if column and row.get(column)
            ]
            if points:
                dots = "." if len(points) < 40 else ""
                axes.plot(
                    *zip(*points, strict=True),
                    style,
                    color=color,
                    marker=dots,
                    label=label if val else name,
                )
    axes.set_title(panel, fontsize=11, color=INK)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=None if val else 0)
    axes.grid(alpha=0.25)
    if axes.lines and (val or len(runs) > 1):
        axes.legend(fontsize=8)


# Images ---------------------------------------------------------------------------------------------------------------


def tiles(images: Tensor, captions: list[str], columns: int, color: str = INK) -> Figure:
    """uint8 [n, C, H, W], all of them in rows, each over its caption of one line or more."""
    n, C, H, W = images.shape
    rows, lines = math.ceil(n / columns), 1 + max(caption.count("\n") for caption in captions)
    side, gap, line = 0.95, 0.12, 0.17  # inches
    pitch = side + gap + line * lines
    width, height = columns * (side + gap) + gap, rows * pitch + gap
    figure = Figure(figsize=(width, height), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    pixels = images.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()
    for number, (image, caption) in enumerate(zip(pixels, captions, strict=True)):
        x, y = gap + number % columns * (side + gap), gap + number // columns * pitch
        axes.imshow(
            image,
            extent=(x, x + side, y + side, y),
            interpolation="nearest" if H < 64 else "antialiased",
        )
        axes.text(
            x + side / 2, y + side + 0.03, caption, ha="center", va="top", fontsize=8.5, color=color
        )
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    return figure


def surest_mistakes(found: Evaluation, n: int, columns: int) -> Figure:
    """The n most confident of the wrong answers, of which there must be one."""
    indices = found.surest_mistakes(n)
    images, labels = found.images.__getitems__(indices)
    names = [shown(name, 12) for name in found.classes]
    said = zip(
        found.predicted[indices].tolist(),
        found.confidence[indices].tolist(),
        labels.tolist(),
        strict=True,
    )
    captions = [f"{names[guess]} {sure:.0%}\nis {names[label]}" for guess, sure, label in said]
    return tiles(images, captions, columns, color=RED)


def attention(images: Tensor, maps: Tensor, captions: list[str], columns: int) -> Figure:
    """uint8 [n, C, H, W], each beside itself under its map, [n, S, S]: the lowest dark, the highest bright."""
    n, _, H, W = images.shape
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    heat = ((maps - low) / (high - low).clamp(min=1e-12))[:, None]
    heat = nn.functional.interpolate(heat, size=(H, W), mode="bilinear")[:, 0]
    colors = torch.from_numpy(matplotlib.colormaps["inferno"](heat.numpy())[..., :3]).permute(
        0, 3, 1, 2
    )
    pixels = images.expand(-1, 3, -1, -1)
    under = (0.45 * pixels + 0.55 * 255 * colors).round().byte()
    pairs = torch.stack([pixels, under], dim=1).flatten(0, 1)
    return tiles(pairs, [text for caption in captions for text in (caption, "attention")], columns)


# Answers --------------------------------------------------------------------------------------------------------------


def confusion(found: Evaluation) -> Figure:
    """How many images of a class (row) were taken for which (column); the shade is the share of the row."""
    counts, k = found.confusion(), len(found.classes)
    share = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    side = min(12.0, max(4.0, 1.2 + 0.4 * k))
    figure = Figure(figsize=(side, side), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.imshow(
        share.sqrt().numpy(), cmap="Blues", vmin=0, vmax=1
    )  # the root, so that a few mistakes can be seen, too
    if k <= 20:
        for row, column in counts.nonzero().tolist():
            dark = share[row, column] > 0.3
            text = str(int(counts[row, column]))
            axes.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else INK,
            )
    if k <= 120:
        names = [shown(name) for name in found.classes]
        size = 9 if k <= 20 else 5
        axes.set_xticks(
            range(k), names, fontsize=size, rotation=0 if max(map(len, names)) <= 2 else 90
        )
        axes.set_yticks(range(k), names, fontsize=size)
    which = {"test": "test images", "val": "validation images"}[found.split]
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(
        f"{int(found.right.sum()):,} of {len(found):,} {which} right", fontsize=11, color=INK
    )
    return figure


def reliability(found: Evaluation) -> Figure:
    """Reliability diagram (Guo et al. 2017): accuracy over confidence, and how many images each bar stands for."""
    count, confidence, accuracy = (values.numpy() for values in found.reliability())
    figure = Figure(figsize=(5.2, 4.8), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    left, width = np.arange(BINS) / BINS, 1 / BINS
    filled = count > 0
    upper.bar(
        left[filled],
        accuracy[filled],
        width,
        align="edge",
        color=BLUE,
        alpha=0.75,
        edgecolor="white",
    )
    upper.plot([0, 1], [0, 1], "--", color=INK, linewidth=1, label="as sure as it is right")
    upper.plot(
        confidence[filled], accuracy[filled], ".", color=INK, label="mean confidence of a bar"
    )
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.03))
    upper.legend(fontsize=8, loc="upper left")
    error = f"expected calibration error {found.calibration_error():.4f}"
    upper.set_title(error, fontsize=11, color=INK)
    lower.bar(
        left[filled], count[filled], width, align="edge", color=BLUE, alpha=0.75, edgecolor="white"
    )
    lower.set(xlabel="confidence", ylabel="images", yscale="log", ylim=(0.5, None))
    lower.yaxis.set_major_formatter(
        StrMethodFormatter("{x:,.0f}")
    )  # the usual one writes powers as mathematics
    return figure


# Weights --------------------------------------------------------------------------------------------------------------


def position_similarity(network: VisionTransformer) -> Figure:
    """Figure 7, center, of the paper: the cosine similarity of each patch's position embedding with all others."""
    side = network.side
    positions = nn.functional.normalize(
        network.positions[0, -(side**2) :].detach().float().cpu(), dim=1
    )
    maps = (positions @ positions.T).view(side, side, side, side)
    gap = max(1, side // 8)
    canvas = torch.full((side, side + gap, side, side + gap), math.nan)
    canvas[:, :side, :, :side] = maps.transpose(1, 2)
    canvas = canvas.reshape(side * (side + gap), side * (side + gap))[:-gap, :-gap]
    figure = Figure(figsize=(5.6, 4.8), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(canvas.numpy(), cmap="viridis", vmin=-1, vmax=1, interpolation="nearest")
    figure.colorbar(picture, label="cosine similarity")
    every = math.ceil(side / 8)
    centers = [(side - 1) / 2 + i * (side + gap) for i in range(0, side, every)]
    axes.set_xticks(centers, range(1, side + 1, every))
    axes.set_yticks(centers, range(1, side + 1, every))
    axes.set(xlabel="column of the patch", ylabel="row of the patch")
    axes.set_title("similarity of position embeddings", fontsize=11, color=INK)
    return figure


def odd_part(stem: ConvStem) -> Tensor:
    """What the first learned convolution of a whitened stem sees of pixels, as filters [outputs, C, 4, 4].

    As a function f of the normalized whitening it has an even part, of contrast whatever its sign, and an odd one,
    (f(z) - f(-z)) / 2. The latter is a filter, as GELU(z) - GELU(-z) = z.
    """
    whiten = stem.whiten
    up, down = stem.stages[0].conv1.weight.detach().float().cpu().chunk(2, dim=1)
    deviation = (whiten.norm.running_var + whiten.norm.eps).sqrt().cpu()[:, None, None]
    return F.conv_transpose2d((up - down) / 2 / deviation, whiten.filters.weight.float().cpu())


def filters(network: nn.Module, most: int = 64) -> Figure:
    """What the first layer looks for: of a patch projection the first 28 principal components (figure 7, left, of the
    paper), of convolutions the filters themselves, behind a whitening their `odd_part`."""
    embed = getattr(network, "embed", None)
    if isinstance(embed, nn.Linear):
        weight, P = embed.weight.detach().float().cpu(), network.patch_size
        components = torch.linalg.svd(weight - weight.mean(dim=0), full_matrices=False).Vh[:28]
        pixels = unpatchify(components[:, None], P, P, components.shape[1] // P**2)
        title = f"patch projection, the first {len(pixels)} principal components"
    elif isinstance(getattr(embed, "whiten", None), Whiten):
        pixels = odd_part(embed)[:most]
        title = f"{len(pixels)} filters of the first learned convolution"
    else:
        convolution = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
        pixels = convolution.weight.detach().float().cpu()[:most]
        title = f"{len(pixels)} filters of the first convolution"
    low, high = pixels.amin((1, 2, 3), keepdim=True), pixels.amax((1, 2, 3), keepdim=True)
    pixels = (pixels - low) / (high - low).clamp(min=1e-12)
    columns = min(len(pixels), 7 if isinstance(embed, nn.Linear) else 8)
    rows = math.ceil(len(pixels) / columns)
    figure = Figure(figsize=(0.7 * columns, 0.7 * rows + 0.4), dpi=DPI)
    figure.suptitle(title, fontsize=10, color=INK)
    padded = nn.functional.pad(pixels, (0, 1, 0, 1), value=1.0)
    padded = torch.cat([padded, padded.new_ones(rows * columns - len(padded), *padded.shape[1:])])
    _, C, H, W = padded.shape
    mosaic = (
        padded.view(rows, columns, C, H, W).permute(0, 3, 1, 4, 2).reshape(rows * H, columns * W, C)
    )
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.96 - 0.4 / figure.get_figheight()))
    axes.imshow(mosaic.expand(-1, -1, 3).numpy(), interpolation="nearest")
    axes.axis("off")
    return figure
