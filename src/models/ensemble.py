"""Several networks trained as one."""

import math

import torch
from torch import Tensor, nn

from src.errors import InputError


class Ensemble(nn.Module):
    """Several networks of one design whose probabilities are averaged (Lakshminarayanan et al. 2017, arXiv:1612.01474).

    In training every batch is dealt out, each network learns from its own share, and an epoch takes as long as that of
    a single network. Only validation, test and classification ask all of them about every image.
    """

    def __init__(self, networks: list[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        """A batch of inputs -> logits [B, K]; outside of training the logarithm of the mean probabilities."""
        n = len(self.networks)
        if not self.training:
            log_probabilities = torch.stack(
                [network(x).float().log_softmax(dim=1) for network in self.networks]
            )
            return log_probabilities.logsumexp(dim=0) - math.log(n)
        if len(x) < n:
            raise InputError(
                f"a batch of {len(x)} has no image for each of {n} networks; use a smaller model.ensemble"
            )
        return torch.cat(
            [
                network(share)
                for network, share in zip(self.networks, x.tensor_split(n), strict=True)
            ]
        )
