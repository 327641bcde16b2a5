"""A mean that is kept on the device."""

import torch
from torch import Tensor
from torchmetrics import Metric


class Mean(Metric):
    """The mean over images of what batches had on average, kept on the device.

    As torchmetrics' `MeanMetric`, which looks for NaN and so waits for the device at every update.
    """

    def __init__(self):
        super().__init__()
        self.add_state(
            "mean_value", torch.tensor(0.0), dist_reduce_fx="sum"
        )  # a sum until `compute`
        self.add_state("weight", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, value: Tensor, images: int) -> None:
        self.mean_value += value * images
        self.weight += images

    def compute(self) -> Tensor:
        return self.mean_value / self.weight
