"""A running mean that never forces the host to wait for the device."""

import torch
from torch import Tensor
from torchmetrics import Metric


class RunningMean(Metric):
    """Running mean of a loss, weighted by batch size.

    torchmetrics' `MeanMetric` checks for NaN, which makes every update wait for the device.
    """

    mean_value: Tensor  # weighted sum, despite its name; `compute` divides it by `weight`
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("mean_value", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("weight", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, value: Tensor, images: int) -> None:
        self.mean_value += value * images
        self.weight += images

    def compute(self) -> Tensor:
        return self.mean_value / self.weight
