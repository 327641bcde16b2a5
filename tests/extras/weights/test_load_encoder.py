"""`--model.init_from` loads the encoder of a file; a wrong file is one line and changes nothing."""

import os
import sys
import zipfile

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models
from vits import (
    SMALL,
    assert_same_logits,
    checkpoint,
    dataset,
    load_error,
    ours,
    save,
    small_timm,
    torchvision_vit,
)

from src.extras.weights.load_encoder import initialize, load_encoder, resample_positions
from src.extras.weights.names import to_timm
from src.extras.weights.read_encoder import HEADS
from src.training.classifier import ViT

STEM = {"patch_size": None, "stem_layers": 2}
DATASET_KEYS = ("image_size", "patch_size", "classes", "channels")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def save_checkpoint(tmp_path, network, average=None, **options):
    """Write a checkpoint of a network that was made with these options."""
    state = {f"net.{key}": value for key, value in network.state_dict().items()}
    if average:
        state |= {f"ema.{key}": value for key, value in average.state_dict().items()}
    about_images = {key: options.pop(key) for key in DATASET_KEYS if key in options}
    return checkpoint(tmp_path, state, images=dataset(**about_images), **options)


def without_head(state):
    return {key: value for key, value in state.items() if not key.startswith("head")}


# Files of torchvision and timm


@pytest.mark.parametrize("parent", [None, "state_dict", "model"])
@pytest.mark.parametrize("style", ["torchvision", "timm"])
def test_features_are_those_of_the_source(tmp_path, style, parent):
    theirs = torchvision_vit(classes=5) if style == "torchvision" else small_timm(classes=5)
    state = theirs.state_dict()
    content = {parent: state, "epoch": 3} if parent else state
    mine = ours()
    head = mine.head.weight.clone()
    report = load_encoder(mine, str(save(tmp_path, content, "weights.bin")))
    assert torch.equal(mine.head.weight, head)
    assert f"{style} names" in report and "loaded     30 tensors" in report
    assert "resampled  nothing" in report
    assert "not used   head (5 classes)" in report and "new        head (7 classes)" in report

    prefix = "heads.head." if style == "torchvision" else "head."
    mine.head = nn.Linear(32, 5)
    mine.head.load_state_dict({key: state[prefix + key] for key in ("weight", "bias")})
    assert_same_logits(mine, theirs, 8, 24)


def test_safetensors(tmp_path, monkeypatch):
    safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    theirs, mine = small_timm(), ours()
    path = tmp_path / "weights.safetensors"
    safetensors.save_file(theirs.state_dict(), path)
    load_encoder(mine, str(path))
    mine.head.load_state_dict(theirs.head.state_dict())
    assert_same_logits(mine, theirs, 8, 24)

    path.write_bytes(b"not tensors at all")
    assert "not a file of tensors" in load_error(mine, path)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)  # as if not installed
    assert "pip install safetensors" in load_error(mine, path)


def test_published_torchvision_files_have_older_names(tmp_path):
    theirs, mine = torchvision_vit(), ours()
    old = {}
    for key, value in theirs.state_dict().items():
        old[key.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2")] = value
    assert "encoder.layers.encoder_layer_0.mlp.linear_2.bias" in old
    load_encoder(mine, str(save(tmp_path, old)))
    mine.head.load_state_dict(theirs.heads.head.state_dict())
    assert_same_logits(mine, theirs, 8, 24)


def test_source_without_head_or_with_a_larger_one(tmp_path):
    state = without_head(torchvision_vit().state_dict())
    assert "not used   nothing" in load_encoder(ours(), str(save(tmp_path, state)))
    state["heads.pre_logits.weight"] = torch.zeros(16, 32)
    state["heads.head.weight"] = torch.zeros(9, 16)
    assert "not used   head (9 classes)" in load_encoder(ours(), str(save(tmp_path, state)))
    state = small_timm().state_dict() | {"pre_logits.fc.weight": torch.zeros(32, 32)}
    assert "loaded     30 tensors" in load_encoder(ours(), str(save(tmp_path, state)))


def test_half_precision_and_gradients(tmp_path):
    state = {key: value.half() for key, value in torchvision_vit().state_dict().items()}
    mine = ours(image_size=32)
    load_encoder(mine, str(save(tmp_path, state)))
    for parameter in mine.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.requires_grad and parameter.is_leaf
    F.cross_entropy(mine(torch.randn(2, 16, 192)), torch.tensor([0, 1])).backward()


# Checkpoints of ours


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool": "mean"},
        STEM | {"pool": "sequence"},
        STEM | {"whiten": True},
        {"positions": "sincos"},
    ],
    ids=["plain", "mean", "stem", "whitened stem", "sincos"],
)
def test_own_checkpoint(tmp_path, options, averaged):
    trained, average = ours(**options), ours(**options)
    mine = ours(classes=3, **options)
    head = {f"head.{key}": value.clone() for key, value in mine.head.state_dict().items()}
    path = save_checkpoint(tmp_path, trained, average if averaged else None, **options)
    report = load_encoder(mine, str(path))
    assert ("averaged weights" if averaged else "trained weights") in report
    assert "head (3 classes)" in report
    expected = (average if averaged else trained).state_dict() | head
    assert all(torch.equal(value, expected[key]) for key, value in mine.state_dict().items())


def test_run_directory_stands_for_its_best_checkpoint(tmp_path):
    trained, mine = ours(), ours()
    path = save_checkpoint(tmp_path, trained)
    (tmp_path / "checkpoints").mkdir()
    path.rename(tmp_path / "checkpoints" / "best.ckpt")
    assert "best.ckpt" in load_encoder(mine, str(tmp_path))
    assert torch.equal(mine.blocks[0].mlp[0].weight, trained.blocks[0].mlp[0].weight)


def test_initialize_fills_the_network_and_its_average(tmp_path):
    path = save(tmp_path, torchvision_vit().state_dict())
    model = ViT(dataset(), init_from=str(path), ema_decay=0.9, **SMALL)
    assert "torchvision names" in initialize(model)
    assert model.initialized
    expected = ours()
    load_encoder(expected, str(path))
    expected = without_head(expected.state_dict())
    for network in (model.net, model.ema):
        state = network.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in expected.items())


def test_fixed_positions_follow_the_formula_on_another_grid(tmp_path):
    small = ours(positions="sincos")
    large = ours(positions="sincos", image_size=40)
    fixed = large.positions.clone()
    path = save(tmp_path, to_timm(small.state_dict()))
    assert "positions from 3x3 to 5x5" in load_encoder(large, str(path))
    assert torch.equal(large.positions, fixed)
    learned = ours(image_size=40)
    load_encoder(learned, str(path))  # as initial values
    assert torch.equal(learned.positions, resample_positions(small.positions, 5, 1))
    learned_path = save(tmp_path, torchvision_vit().state_dict())
    message = load_error(ours(positions="sincos"), learned_path)
    assert "set --model.positions learned" in message


# torchvision:vit_*


def test_torchvision_source(monkeypatch):
    theirs = torchvision_vit(image_size=56, classes=1000)
    calls = []

    def get_state_dict(weights, **options):
        calls.append((weights, options))
        return theirs.state_dict()

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", get_state_dict)
    monkeypatch.setitem(HEADS, (32, 2), 4)
    mine = ours()
    report = load_encoder(mine, "torchvision:vit_b_32")
    [(weights, options)] = calls
    assert weights is models.ViT_B_32_Weights.DEFAULT
    assert options["weights_only"] is True and options["check_hash"] is True
    assert "30 tensors" in report and "7x7 to 3x3" in report and "1000 classes" in report
    assert torch.equal(mine.blocks[1].mlp[3].weight, theirs.encoder.layers[1].mlp[3].weight)
    message = load_error(ours(heads=8), "torchvision:vit_b_32")
    assert "heads is 4 in the file but 8 in the model; set --model.heads 4" in message


@pytest.mark.parametrize("name", ["vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"])
def test_heads_of_torchvision_are_known(name):
    with torch.device("meta"):
        theirs = models.get_model(name, weights=None)
    size = (theirs.hidden_dim, len(theirs.encoder.layers))
    assert HEADS[size] == theirs.encoder.layers[0].num_heads


def test_torchvision_file_placed_by_hand(tmp_path, monkeypatch):
    """torchvision itself reads the file in its cache, and runs no code in it."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    path = tmp_path / "checkpoints" / "vit_b_16-c867db91.pth"
    path.parent.mkdir()
    theirs, mine = torchvision_vit(), ours()
    torch.save(theirs.state_dict(), path)
    load_encoder(mine, "torchvision:vit_b_16")
    mine.head.load_state_dict(theirs.heads.head.state_dict())
    assert_same_logits(mine, theirs, 8, 24)
    torch.save(Bomb(str(tmp_path / "ran")), path)
    assert str(path) in load_error(ours(), "torchvision:vit_b_16")
    assert not (tmp_path / "ran").exists()


def test_torchvision_source_offline_or_unknown(monkeypatch):
    def get_state_dict(weights, **options):
        raise OSError("<urlopen error\n[Errno -3] Temporary failure in name resolution>")

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", get_state_dict)
    message = load_error(ours(), "torchvision:vit_b_16")
    assert "name resolution" in message and models.ViT_B_16_Weights.DEFAULT.url in message
    assert os.path.join(torch.hub.get_dir(), "checkpoints", "vit_b_16-c867db91.pth") in message
    message = load_error(ours(), "torchvision:vit_b_17")
    assert "torchvision:vit_b_16, torchvision:vit_b_32" in message and "maxvit" not in message


# Another architecture


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"width": 64}, ["class_token [1, 1, 32]", "[1, 1, 64]", "set --model.width 32"]),
        ({"depth": 3}, ["encoder_layer_2.ln_1.weight is missing", "set --model.depth 2"]),
        ({"depth": 1}, ["encoder_layer_1.ln_1.weight [32] has no place", "set --model.depth 2"]),
        ({"mlp_ratio": 4.0}, ["mlp.0.weight [64, 32]", "set --model.mlp_ratio 2.0"]),
        ({"patch_size": 12}, ["conv_proj.weight [32, 192]", "set --data.patch_size 8"]),
        (
            {"patch_size": 4, "channels": 12},
            ["channels is 3 in the file but 12", "set --data.patch_size 8", "3 channels"],
        ),
        ({"channels": 1}, ["conv_proj.weight [32, 192]", "use images of 3 channels"]),
        ({"pool": "mean"}, ["class_token [1, 1, 32] has no place", "set --model.pool cls"]),
        ({"pool": "sequence"}, ["sequence_pool.score.weight is missing", "set --model.pool cls"]),
        (STEM, ["stages.0.conv1.weight is missing", "set --model.stem_layers 0"]),
        ({"width": 64, "depth": 1}, ["[1, 1, 64]", "set --model.depth 2 --model.width 32"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_message_names_the_setting_to_change(tmp_path, options, parts):
    path = save(tmp_path, torchvision_vit().state_dict())
    message = load_error(ours(**options), path)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"patch_size": 4}, "set --data.patch_size 4"),
        ({"channels": 1}, "use images of 1 channels"),
        (STEM, "set --model.stem_layers 2 --data.patch_size null"),
        (
            STEM | {"stem_width": 8, "whiten": True},
            "--model.stem_layers 2 --model.stem_width 8 --model.whiten true --data.patch_size null",
        ),
        ({"pool": "mean"}, "set --model.pool mean"),
        ({"heads": 2}, "heads is 2 in the file but 4 in the model; set --model.heads 2"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_own_checkpoint_of_another_architecture(tmp_path, options, part):
    path = save_checkpoint(tmp_path, ours(**options), **options)
    assert part in load_error(ours(), path)


# Damaged and hostile files


@pytest.mark.parametrize(
    "missing", ["class_token", "encoder.pos_embedding", "conv_proj.bias", "encoder.ln.weight"]
)
def test_missing_key_is_named(tmp_path, missing):
    state = torchvision_vit().state_dict()
    del state[missing]
    assert f"{missing} is missing" in load_error(ours(), save(tmp_path, state))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"blocks.0.ls1.gamma": torch.ones(32)}, "blocks.0.ls1.gamma [32] has no counterpart"),
        # Nine patches, without the class token.
        ({"pos_embed": torch.zeros(1, 9, 32)}, "pos_embed [1, 9, 32] is not a square grid"),
        ({"pos_embed": torch.zeros(2, 10, 32)}, "pos_embed [2, 10, 32] is not a square grid"),
        ({"pos_embed": torch.zeros(10, 32)}, "pos_embed [10, 32] does not fit"),
        ({"norm.bias": 3}, "norm.bias is a int"),
        ({"norm.bias": torch.zeros(32).to_sparse()}, "norm.bias is sparse"),
    ],
)
def test_wrong_tensor_is_named(tmp_path, changes, part):
    state = small_timm().state_dict() | changes
    assert part in load_error(ours(), save(tmp_path, state))


@pytest.mark.parametrize("key", ["patch_embed.proj.weight", "head.weight", "unknown"])
def test_tensor_that_claims_more_than_its_storage(tmp_path, key):
    """Copying one of these would fill the memory."""
    huge = torch.zeros(1).expand(32, 3, 2**20, 2**20)
    path = save(tmp_path, small_timm().state_dict() | {key: huge})
    assert f"{key} [32, 3, 1048576, 1048576] claims more" in load_error(ours(), path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.float8_e4m3fn])
def test_weights_of_another_type(tmp_path, dtype):
    state = small_timm().state_dict()
    state["norm.weight"] = state["norm.weight"].to(dtype)
    message = load_error(ours(), save(tmp_path, state))
    assert f"norm.weight [32] is of type {dtype}" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_values_that_are_not_finite(tmp_path, value):
    state = small_timm().state_dict()
    state["norm.weight"] = state["norm.weight"].double()
    state["norm.weight"][3] = value
    message = load_error(ours(), save(tmp_path, state))
    assert "norm.weight [32] has infinite or NaN values" in message


def test_values_of_own_checkpoint_that_are_not_finite(tmp_path):
    trained = ours()
    nn.init.constant_(trained.norm.weight, float("nan"))
    assert "NaN values" in load_error(ours(), save_checkpoint(tmp_path, trained))


def test_compressed_file(tmp_path):
    """A few kilobytes of it can unpack to any size."""
    path = save(tmp_path, small_timm().state_dict())
    with zipfile.ZipFile(path) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert torch.load(path, weights_only=True)
    assert "not a file of tensors" in load_error(ours(), path)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"layer1.weight": torch.zeros(3)}, "layer1.weight is not a name of"),
        (torch.zeros(3), "a Tensor"),
        ({}, "holds no named tensors"),
        ({3: torch.zeros(3)}, "holds no named tensors"),
    ],
)
def test_file_that_is_not_a_vit(tmp_path, content, part):
    assert part in load_error(ours(), save(tmp_path, content))


def test_files_that_cannot_be_read(tmp_path):
    assert "no such file" in load_error(ours(), tmp_path / "nowhere.pth")
    (tmp_path / "a.folder").mkdir()
    for folder in (tmp_path, tmp_path / "a.folder"):
        assert f"{folder}: no trained run; check the path" in load_error(ours(), folder)
    assert "no such checkpoint" in load_error(ours(), tmp_path / "nowhere.ckpt")
    for name in ("text.pth", "text.ckpt"):
        (tmp_path / name).write_bytes(b"hello, I am text")
        load_error(ours(), tmp_path / name)
    (tmp_path / "empty.pth").write_bytes(b"")
    load_error(ours(), tmp_path / "empty.pth")
    path = save(tmp_path, torchvision_vit().state_dict())
    path.write_bytes(path.read_bytes()[:5000])  # half a download
    load_error(ours(), path)


@pytest.mark.parametrize("name", ["bomb.pth", "bomb.ckpt"])
@pytest.mark.parametrize("legacy", [False, True])
def test_pickle_that_runs_code_is_refused(tmp_path, name, legacy):
    mark, path = tmp_path / "ran", tmp_path / name
    state = {"state_dict": torchvision_vit().state_dict(), "bomb": Bomb(str(mark))}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    load_error(ours(), path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # to prove that it would have run
    assert mark.exists()
