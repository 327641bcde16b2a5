"""Test that `--model.init_from` determines the network's shape and the format of its images."""

import pytest
import torch
import yaml
from photos import class_folders
from vits import checkpoint, dataset, ours

from src.cli.parser import parse
from src.errors import InputError
from src.extras.weights.load_encoder import initialize

STEM = {"stem_layers": 2, "whiten": True, "pool": "mean"}


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """Flags that train on class folders from a network of 24x24 images with a stem."""
    folder = tmp_path_factory.mktemp("trained")
    network = ours(patch_size=None, **STEM)
    state = {f"net.{key}": value for key, value in network.state_dict().items()}
    path = checkpoint(folder, state, images=dataset(patch_size=None), **STEM)
    root = class_folders(folder / "photos", ("cat", "dog"), (24, 24), train=0)
    config = "--config configs/folder.yaml --trainer.accelerator cpu"
    return [*config.split(), "--data.root", str(root), "--model.init_from", str(path)]


def test_the_run_determines_the_network(flags):
    """The recipe has four stem layers, width 192 and 64-pixel images."""
    settings = parse(flags)
    network = settings.model.network_config
    info = settings.data.info
    assert network.sizes == (32, 2, 4)
    assert (network.stem_layers, network.whiten, network.mlp_ratio) == (2, True, 2.0)
    assert network.mirror  # not a property of the weights
    assert (info.image_size, info.mean, info.std) == (24, (0, 0, 0), (1, 1, 1))
    written = yaml.safe_load(settings.config)
    assert written["model"]["init_args"]["width"] == 32
    assert written["data"]["init_args"]["image_size"] == 24


def test_flags_have_priority(flags):
    """A flag that contradicts the network is rejected when the weights are loaded."""
    more = "--model.init_args.depth 3 --data.image_size=32 --model.dropout 0.1"
    settings = parse([*flags, *more.split()])
    assert settings.data.info.image_size == 32
    network = settings.model.network_config
    assert (network.width, network.depth, network.dropout) == (32, 3, 0.1)
    with pytest.raises(InputError, match="encoder has depth=2, but the model has depth=3"):
        initialize(settings.model)


def test_foreign_weights_do_not_change_the_recipe(flags, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(1)}, path)
    settings = parse([*flags, "--model.init_from", str(path)])
    assert settings.model.network_config.sizes == (192, 4, 3)
