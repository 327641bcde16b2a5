"""The training loss."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    logits: Tensor, targets: Tensor, smoothing: float, weights: Tensor | None = None
) -> Tensor:
    """Return the mean cross-entropy of a batch.

    The `weight` of `F.cross_entropy` would also distort smoothed targets toward rare classes, and
    scale each batch by its own classes.

    Args:
        logits: [B, K].
        targets: labels, int64 [B], or probabilities, float [B, K].
        smoothing: fraction of the target probability that is spread over all classes.
        weights: float32 [B]; factors for the losses of the images.
    """
    if weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)
    losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    return (losses * weights).mean()
