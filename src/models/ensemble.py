"""An ensemble of networks that are trained together."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from src.errors import InputError


class Ensemble(nn.Module):
    """An ensemble that averages probabilities (Lakshminarayanan et al. 2017, arXiv:1612.01474).

    In training, each network gets its own part of the batch, so an epoch takes as long as with a
    single network. In evaluation, every network gets all images.
    """

    def __init__(self, networks: list[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        """Batch of inputs -> logits [B, K]; in evaluation, the log of the mean probabilities."""
        n = len(self.networks)
        if self.training:
            if len(x) < n:
                raise InputError(
                    f"a batch of {len(x)} images cannot be split among {n} networks; use a smaller "
                    "model.ensemble"
                )
            shares = zip(self.networks, x.tensor_split(n), strict=True)
            return torch.cat([network(share) for network, share in shares])
        log_probabilities = [network(x).float().log_softmax(dim=1) for network in self.networks]
        return torch.stack(log_probabilities).logsumexp(dim=0) - math.log(n)

    def features(self, x: Tensor) -> Tensor:
        """Return the concatenated features of all networks, [B, sum of D]."""
        networks: Iterable[Any] = self.networks  # every kind of network has this method
        return torch.cat([network.features(x) for network in networks], dim=1)
