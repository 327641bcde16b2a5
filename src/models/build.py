"""Build a network or an ensemble from its config."""

from torch import nn

from src.config import MAX_PARAMETERS, DatasetInfo, NetworkConfig, ViTConfig
from src.errors import InputError
from src.models.cnn import ConvNet
from src.models.ensemble import Ensemble
from src.models.vit import VisionTransformer


def build_network(config: NetworkConfig, dataset: DatasetInfo, ensemble: int = 1) -> nn.Module:
    """Return a newly initialized network, or an `Ensemble` if `ensemble` is above 1.

    Raises:
        InputError: the network does not fit the images or has too many parameters.
    """
    first = _build(config, dataset)
    parameters = ensemble * sum(p.numel() for p in first.parameters())
    if parameters > MAX_PARAMETERS:
        what = f"model.ensemble {ensemble}" if ensemble > 1 else "the network"
        raise InputError(
            f"{what} would have {parameters:.1e} parameters; the limit is {MAX_PARAMETERS:.0e}"
        )
    if ensemble == 1:
        return first
    return Ensemble([first, *(_build(config, dataset) for _ in range(ensemble - 1))])


def _build(config: NetworkConfig, dataset: DatasetInfo) -> nn.Module:
    if isinstance(config, ViTConfig):
        return VisionTransformer(config, dataset)
    return ConvNet(config, dataset)
