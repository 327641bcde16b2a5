"""Several networks trained as one."""

import math

import torch
from torch import Tensor, nn

from src.errors import InputError


class Ensemble(nn.Module):
    """Networks whose probabilities are averaged (Lakshminarayanan et al. 2017, arXiv:1612.01474).

    In training each network learns from its own share of the batch, so an epoch takes as long as
    with one network. In evaluation every network sees every image.
    """

    def __init__(self, networks: list[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        """A batch of inputs -> logits [B, K]; in evaluation the log of the mean probabilities."""
        n = len(self.networks)
        if self.training:
            if len(x) < n:
                raise InputError(
                    f"a batch of {len(x)} images cannot be shared by {n} networks; use a smaller "
                    "model.ensemble"
                )
            shares = zip(self.networks, x.tensor_split(n), strict=True)
            return torch.cat([network(share) for network, share in shares])
        log_probabilities = [network(x).float().log_softmax(dim=1) for network in self.networks]
        return torch.stack(log_probabilities).logsumexp(dim=0) - math.log(n)
