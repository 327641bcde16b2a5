"""From a checkpoint's description to a network."""

import pytest
import torch

from src.errors import InputError
from src.models.build import build
from src.models.cnn import ConvNet
from src.models.ensemble import Ensemble
from src.models.vit import VisionTransformer

VIT = {
    "kind": "vit",
    "image_size": 16,
    "patch_size": 4,
    "channels": 1,
    "classes": 3,
    "size": "Ti",
    "depth": 1,
}


def test_the_kind_names_the_network():
    assert isinstance(build(VIT), VisionTransformer)
    assert isinstance(
        build({"kind": "cnn", "image_size": 12, "channels": 1, "classes": 3}), ConvNet
    )


def test_several_networks_start_differently():
    several = build(VIT, 2)
    assert isinstance(several, Ensemble) and len(several.networks) == 2
    first, second = (network.embed.weight for network in several.networks)
    assert not torch.equal(first, second)


def test_more_parameters_than_any_machine_can_train_are_refused():
    with torch.device("meta"):
        with pytest.raises(
            InputError, match=r"model.ensemble 10000: 4.\de\+09 parameters are too many; 2e\+09 are"
        ):
            build(VIT, 10_000)
        with pytest.raises(InputError, match=r"the network: 6.\de\+09 parameters are too many"):
            build({"kind": "cnn", "image_size": 1800, "channels": 3, "classes": 10})
