"""Draw learned weights: the similarity of position embeddings, and first-layer filters.

Call these functions inside `figures.plain_text`. Importing this module imports matplotlib.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchvision.utils import make_grid

from src.models.vit import VisionTransformer
from src.transforms.patchify import unpatchify

MAX_FILTERS = 64
COMPONENTS = 28  # as in figure 7 of the ViT paper


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
    if isinstance(network, VisionTransformer) and isinstance(network.embed, nn.Linear):
        filters, title = _principal_components(network), "principal components of the projection"
    else:
        convolution = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
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
