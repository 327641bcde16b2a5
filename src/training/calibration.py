"""Fit the temperature that calibrates a network's probabilities."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

MIN_IMAGES = 100  # validation images; with 50, 3 of 40 fits increased the loss on other images
STEP = 0.25  # distance of the temperatures below, in log units
LOG_TEMPERATURES = [STEP * step for step in range(-6, 10)]  # temperatures from 0.22 to 9.5
PRIOR_STD = 0.5  # standard deviation of the prior; published temperatures are 0.7 to 3


class Temperature(Metric):
    """Divide logits by one scalar, so that confidence matches accuracy on the validation images.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599. The temperature
    minimizes the negative log-likelihood with a normal prior on its logarithm. Without the prior,
    it would approach 0 if all images were classified correctly. The loss is summed at fixed
    temperatures and interpolated by a parabola, so that memory and communication between processes
    do not depend on the number of images.
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
        """Return the temperature; 1 if there are fewer than `MIN_IMAGES` images."""
        if self.images < MIN_IMAGES:
            return 1.0
        logs = torch.tensor(LOG_TEMPERATURES)
        losses = self.losses.cpu() + (logs / PRIOR_STD) ** 2 / 2
        best = 1 + int(losses[1:-1].argmin())
        before, least, after = losses[best - 1 : best + 2].tolist()
        shift = (before - after) / (before - 2 * least + after) / 2
        return math.exp(LOG_TEMPERATURES[best] + STEP * max(-1.0, min(1.0, shift)))
