"""Test building networks from configs."""

import pytest
import torch
from vits import dataset

from src.config import CNNConfig, ViTConfig
from src.errors import InputError
from src.models.build import build_network
from src.models.ensemble import Ensemble

VIT = ViTConfig(depth=1)


def test_ensemble_members_start_differently():
    network = build_network(VIT, dataset(), ensemble=2)
    assert isinstance(network, Ensemble)
    first, second = (member.embed.weight for member in network.networks)
    assert not torch.equal(first, second)


def test_too_many_parameters_are_refused():
    large = dataset(image_size=1800, patch_size=None)
    with torch.device("meta"):
        with pytest.raises(InputError, match=r"model.ensemble 10000 would have 4.\de\+09 param"):
            build_network(VIT, dataset(), ensemble=10_000)
        with pytest.raises(InputError, match=r"the network would have 6.\de\+09 .* is 2e\+09"):
            build_network(CNNConfig(), large)
