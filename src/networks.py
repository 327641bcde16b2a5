"""From the description that a checkpoint carries to a network, or to an ensemble of several."""

import functools
import math

import torch
from torch import Tensor, nn

from src.cnn import ConvNet
from src.errors import InputError
from src.vit import MAX_PARAMETERS, VisionTransformer

NETWORKS = {"vit": VisionTransformer, "cnn": ConvNet}


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
            log_probabilities = torch.stack([network(x).float().log_softmax(dim=1) for network in self.networks])
            return log_probabilities.logsumexp(dim=0) - math.log(n)
        if len(x) < n:
            raise InputError(f"a batch of {len(x)} has no image for each of {n} networks; use a smaller model.ensemble")
        return torch.cat([network(share) for network, share in zip(self.networks, x.tensor_split(n), strict=True)])


def build(network: dict, ensemble: int = 1) -> nn.Module:
    """The network of that "kind", "vit" or "cnn", with the other entries as arguments; an `Ensemble` of several."""
    arguments = {key: value for key, value in network.items() if key != "kind"}
    make = functools.partial(NETWORKS[network["kind"]], **arguments)
    first = make()
    if (count := ensemble * sum(p.numel() for p in first.parameters())) > MAX_PARAMETERS:
        what = f"model.ensemble {ensemble}" if ensemble > 1 else "the network"
        raise InputError(f"{what}: {count:.1e} parameters are too many; {MAX_PARAMETERS:.0e} are the most")
    return Ensemble([first, *(make() for _ in range(ensemble - 1))]) if ensemble > 1 else first
