"""Fit the temperature that calibrates a network's probabilities."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

LEAST = 100  # validation images; with 50, 3 of 40 temperatures worsened the loss of other images
STEP = 0.25  # distance of the temperatures below, in log units
LOG_TEMPERATURES = [STEP * step for step in range(-6, 10)]  # temperatures from 0.22 to 9.5
SPREAD = 0.5  # standard deviation of the prior of the log temperature; published ones are 0.7 to 3


class Temperature(Metric):
    """Divide logits by one scalar, so that confidence matches accuracy on the validation images.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599. The temperature
    minimizes the negative log-likelihood, plus that of a normal prior of its logarithm, which keeps
    it from 0 if all images are classified correctly. The loss is summed at fixed temperatures, so
    that neither memory nor the merge over processes depends on the number of images, and
    interpolated by a parabola.
    """

    losses: Tensor  # [len(LOG_TEMPERATURES)]
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("losses", torch.zeros(len(LOG_TEMPERATURES)), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        logits = logits.float()
        scaled = (logits / math.exp(log) for log in LOG_TEMPERATURES)
        self.losses += torch.stack([F.cross_entropy(z, labels, reduction="sum") for z in scaled])
        self.images += len(labels)

    def compute(self) -> float:
        """Return the temperature; 1 if there are fewer than `LEAST` images."""
        if self.images < LEAST:
            return 1.0
        logs = torch.tensor(LOG_TEMPERATURES)
        losses = self.losses.cpu() + (logs / SPREAD) ** 2 / 2
        best = 1 + int(losses[1:-1].argmin())
        before, least, after = losses[best - 1 : best + 2].tolist()
        shift = (before - after) / (before - 2 * least + after) / 2
        return math.exp(LOG_TEMPERATURES[best] + STEP * max(-1.0, min(1.0, shift)))
