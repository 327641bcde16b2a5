"""Test that `--model.init_from` determines the network's shape and the format of its images."""

import pytest
import torch
import yaml
from photos import class_folders
from vits import checkpoint, dataset, ours

from src.cli.parser import parse
from src.errors import InputError

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


def test_the_same_values_and_another_image_size_are_accepted(flags):
    same = "--model.width=32 --model.init_args.depth 2 --data.patch_size null --data.channels 3"
    settings = parse([*flags, *same.split(), "--data.image_size", "32", "--model.dropout", "0.1"])
    assert settings.data.info.image_size == 32
    assert settings.model.network_config.dropout == 0.1


@pytest.mark.parametrize(
    ("flag", "part"),
    [
        ("--model.width 64", "--model.width 64 contradicts model.init_from .* has width 32"),
        ("--model.init_args.pool=cls", "--model.pool cls contradicts .* has pool mean"),
        ("--data.channels 1", "--data.channels 1 contradicts .* has channels 3"),
        ("--data.patch_size 8", "--data.patch_size 8 contradicts .* has patch_size None"),
        ("--model.size S", "--model.size S contradicts .* has size Ti"),
    ],
)
def test_a_contradiction_is_refused(flags, flag, part):
    with pytest.raises(InputError, match=part) as caught:
        parse([*flags, *flag.split()])
    assert "\n" not in str(caught.value)


def test_foreign_weights_do_not_change_the_recipe(flags, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(1)}, path)
    settings = parse([*flags, "--model.init_from", str(path)])
    assert settings.model.network_config.sizes == (192, 4, 3)
