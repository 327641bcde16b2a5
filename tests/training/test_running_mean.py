"""Test the running mean of the loss."""

import torch

from src.training.running_mean import RunningMean


def test_a_running_mean_is_weighted_by_batch_size():
    mean = RunningMean()
    mean.update(torch.tensor(1.0), 30)
    mean.update(torch.tensor(4.0), 10)
    assert mean.compute() == 1.75
    mean.update(torch.tensor(float("nan")), 1)
    assert mean.compute().isnan()
