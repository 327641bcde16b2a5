"""Test that unsuitable, damaged and hostile weights are rejected, leaving the network unchanged."""

import os
import zipfile

import pytest
import torch
from torchvision import models
from vits import (
    assert_same_logits,
    load_error,
    ours,
    save,
    small_timm,
    torchvision_vit,
)

from src.extras.weights.load_encoder import load_encoder


class Bomb:
    """An object that creates a directory when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"patch_size": 4, "channels": 12}, "set --data.channels 3 --data.patch_size 8"),
        ({"pool": "mean"}, "set --model.pool cls"),
        ({"patch_size": None, "stem_layers": 2}, "set --model.stem_layers 0 --data.patch_size 8"),
        (
            {"width": 64, "depth": 1, "mlp_ratio": 4.0},
            "set --model.depth 2 --model.width 32 --model.mlp_ratio 2.0",
        ),
        ({"positions": "sincos"}, "set --model.positions learned"),
    ],
)
def test_error_lists_the_settings_to_change(tmp_path, options, part):
    path = save(tmp_path, torchvision_vit().state_dict())
    assert part in load_error(ours(**options), path)


def test_error_names_the_missing_tensor(tmp_path):
    state = torchvision_vit().state_dict()
    del state["encoder.pos_embedding"]
    path = save(tmp_path, state)
    assert "positions is missing, but in the model it has shape [1, " in load_error(ours(), path)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("blocks.0.ls1.gamma", torch.ones(32), "blocks.0.ls1.gamma [32] has no counterpart"),
        ("pos_embed", torch.zeros(1, 9, 32), "8 positions are not a square grid"),
        ("pos_embed", torch.zeros(10, 32), "positions has shape [10, *]"),
        ("norm.weight", torch.ones(32, dtype=torch.int8), "norm.weight is not a dense"),
        ("norm.weight", torch.ones(32).double() * 1e300, "norm.weight has infinite or NaN values"),
        ("norm.bias", 3, "norm.bias is not a dense"),
        ("norm.bias", torch.zeros(32).to_sparse(), "norm.bias is not a dense"),
    ],
)
def test_error_names_the_invalid_tensor(tmp_path, key, value, problem):
    state = small_timm().state_dict() | {key: value}
    assert problem in load_error(ours(), save(tmp_path, state))


@pytest.mark.parametrize("key", ["patch_embed.proj.weight", "unknown"])
def test_tensor_larger_than_its_storage(tmp_path, key):
    """Copying such a tensor would exhaust memory."""
    huge = torch.zeros(1).expand(32, 3, 2**20, 2**20)
    path = save(tmp_path, small_timm().state_dict() | {key: huge})
    assert f"{key} [32, 3, 1048576, 1048576] is larger than its" in load_error(ours(), path)


def test_compressed_file(tmp_path):
    """A compressed file of a few kilobytes can expand to any size."""
    path = save(tmp_path, small_timm().state_dict())
    with zipfile.ZipFile(path) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert torch.load(path, weights_only=True)
    assert "cannot be loaded" in load_error(ours(), path)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"layer1.weight": torch.zeros(3)}, "layer1.weight is not a parameter of"),
        ({"conv_proj.weight": torch.zeros(32, 3)}, "patch embedding is not a convolution"),
        (torch.zeros(3), "expected named tensors, got a Tensor"),
    ],
)
def test_file_without_a_vit(tmp_path, content, part):
    assert part in load_error(ours(), save(tmp_path, content))


def test_truncated_file(tmp_path):
    path = save(tmp_path, torchvision_vit().state_dict())
    path.write_bytes(path.read_bytes()[:5000])
    assert "cannot be loaded" in load_error(ours(), path)


def test_missing_source(tmp_path):
    assert "no such file" in load_error(ours(), tmp_path / "nowhere.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_not_run(tmp_path, legacy):
    mark = tmp_path / "ran"
    path = tmp_path / "weights.pth"
    state = {"state_dict": torchvision_vit().state_dict(), "bomb": Bomb(str(mark))}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    load_error(ours(), path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # confirms that the code works
    assert mark.exists()


def test_code_in_the_torchvision_cache_is_not_run(tmp_path, monkeypatch):
    """The cached file that torchvision loads has the parameter names of older versions."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    path = tmp_path / "checkpoints" / "vit_b_16-c867db91.pth"
    path.parent.mkdir()
    theirs = torchvision_vit()
    mine = ours()
    older = {}
    for key, value in theirs.state_dict().items():
        key = key.replace("mlp.0", "mlp.linear_1")
        older[key.replace("mlp.3", "mlp.linear_2")] = value
    torch.save(older, path)
    load_encoder(mine, "torchvision:vit_b_16")
    mine.head.load_state_dict(theirs.heads.head.state_dict())
    assert_same_logits(mine, theirs, 8, 24)

    torch.save(Bomb(str(tmp_path / "ran")), path)
    assert str(path) in load_error(ours(), "torchvision:vit_b_16")
    assert not (tmp_path / "ran").exists()


def test_failed_download_and_unknown_model(monkeypatch):
    def get_state_dict(weights, **options):
        raise OSError("<urlopen error\n[Errno -3] Temporary failure in name resolution>")

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", get_state_dict)
    message = load_error(ours(), "torchvision:vit_b_16")
    assert "name resolution" in message
    assert models.ViT_B_16_Weights.DEFAULT.url in message
    assert os.path.join("checkpoints", "vit_b_16-c867db91.pth") in message
    assert "vit_b_16, vit_b_32" in load_error(ours(), "torchvision:vit_b_17")
