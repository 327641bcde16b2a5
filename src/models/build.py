"""From the description that a checkpoint carries to a network, or to an ensemble of several."""

import functools

from torch import nn

from src.errors import InputError
from src.models.cnn import ConvNet
from src.models.ensemble import Ensemble
from src.models.vit import MAX_PARAMETERS, VisionTransformer

NETWORKS = {"vit": VisionTransformer, "cnn": ConvNet}


def build(network: dict, ensemble: int = 1) -> nn.Module:
    """The network of that "kind", "vit" or "cnn", with the other entries as arguments; an `Ensemble` of several."""
    arguments = {key: value for key, value in network.items() if key != "kind"}
    make = functools.partial(NETWORKS[network["kind"]], **arguments)
    first = make()
    if (count := ensemble * sum(p.numel() for p in first.parameters())) > MAX_PARAMETERS:
        what = f"model.ensemble {ensemble}" if ensemble > 1 else "the network"
        raise InputError(
            f"{what}: {count:.1e} parameters are too many; {MAX_PARAMETERS:.0e} are the most"
        )
    return Ensemble([first, *(make() for _ in range(ensemble - 1))]) if ensemble > 1 else first
