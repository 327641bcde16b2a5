"""`--model.init_from`: the encoder of a file is loaded; wrong files give one line and change nothing."""

import os

import pytest
import torch
import torch.nn.functional as F
from torchvision import models
from vits import assert_same_logits, checkpoint, error_of, ours, save, small_timm, torchvision_vit

from src.extras.weights.load_encoder import HEADS, load_encoder, resample_positions
from src.extras.weights.names import from_torchvision, to_timm

STEM = {"patch_size": None, "stem_layers": 2}


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
@pytest.mark.parametrize("style", ["torchvision", "timm"])
def test_an_encoder_from_a_file_gives_the_features_of_the_source(tmp_path, style, nested):
    theirs = torchvision_vit(classes=5) if style == "torchvision" else small_timm(classes=5)
    state = theirs.state_dict()
    mine = ours()
    head = mine.head.weight.clone()
    report = load_encoder(
        mine, str(save(tmp_path, {nested: state, "epoch": 3} if nested else state, "weights.bin"))
    )
    assert torch.equal(mine.head.weight, head)
    for line in (
        "loaded     30 tensors",
        "resampled  nothing",
        "not used   head (5 classes)",
        "new        head (7 classes)",
    ):
        assert line in report
    assert f"{style} names" in report

    prefix = "heads.head." if style == "torchvision" else "head."
    mine.head = torch.nn.Linear(32, 5)
    mine.head.load_state_dict({key: state[prefix + key] for key in ("weight", "bias")})
    assert_same_logits(mine, theirs, 8, 24)


def test_safetensors(tmp_path, monkeypatch):
    safetensors = pytest.importorskip(
        "safetensors.torch", reason="safetensors is optional: pip install safetensors"
    )
    theirs, path = small_timm(), tmp_path / "weights.safetensors"
    safetensors.save_file(theirs.state_dict(), path)
    mine = ours()
    load_encoder(mine, str(path))
    mine.head.load_state_dict(theirs.head.state_dict())
    assert_same_logits(mine, theirs, 8, 24)

    path.write_bytes(b"not tensors at all")
    assert "not a file of tensors" in error_of(mine, path)
    monkeypatch.setitem(
        __import__("sys").modules, "safetensors.torch", None
    )  # as if it were not installed
    assert "pip install safetensors" in error_of(mine, path)


def test_old_names_of_the_published_torchvision_files(tmp_path):
    theirs, mine = torchvision_vit(), ours()
    old = {
        k.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): v
        for k, v in theirs.state_dict().items()
    }
    assert any("linear_2" in key for key in old)
    assert from_torchvision(old).keys() == from_torchvision(theirs.state_dict()).keys()
    load_encoder(mine, str(save(tmp_path, old)))
    mine.head.load_state_dict(theirs.heads.head.state_dict())
    assert_same_logits(mine, theirs, 8, 24)


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
def test_our_own_checkpoint(tmp_path, options, averaged):
    trained, average, mine = ours(**options), ours(**options), ours(classes=3, **options)
    state = {f"net.{key}": value for key, value in trained.state_dict().items()}
    if averaged:
        state |= {f"ema.{key}": value for key, value in average.state_dict().items()}
    head = {f"head.{key}": value.clone() for key, value in mine.head.state_dict().items()}
    path = checkpoint(tmp_path, state, **options)
    report = load_encoder(mine, str(path))
    assert (
        "averaged weights" if averaged else "trained weights"
    ) in report and "head (3 classes)" in report
    wanted = (average if averaged else trained).state_dict() | head
    assert all(torch.equal(value, wanted[key]) for key, value in mine.state_dict().items())


def test_a_run_directory_stands_for_its_best_checkpoint(tmp_path):
    trained, mine = ours(), ours()
    path = checkpoint(
        tmp_path, {f"net.{key}": value for key, value in trained.state_dict().items()}
    )
    (tmp_path / "checkpoints").mkdir()
    path.rename(tmp_path / "checkpoints" / "best.ckpt")
    assert "best.ckpt" in load_encoder(mine, str(tmp_path))
    assert torch.equal(mine.blocks[0].mlp[0].weight, trained.blocks[0].mlp[0].weight)


def test_fixed_positions_follow_the_formula_on_another_grid(tmp_path):
    small, large = ours(positions="sincos"), ours(positions="sincos", image_size=40)
    fixed = large.positions.clone()
    path = save(tmp_path, to_timm(small.state_dict()))
    assert "positions from 3x3 to 5x5" in load_encoder(large, str(path))
    assert torch.equal(large.positions, fixed)
    learned = ours(image_size=40)
    load_encoder(learned, str(path))  # as initial values
    assert torch.equal(learned.positions, resample_positions(small.positions, 5, 1))
    learned_path = save(tmp_path, torchvision_vit().state_dict())
    assert "set --model.positions learned" in error_of(ours(positions="sincos"), learned_path)


def test_a_network_without_head_and_a_file_without_head(tmp_path):
    state = {
        key: value
        for key, value in torchvision_vit().state_dict().items()
        if not key.startswith("heads")
    }
    report = load_encoder(ours(classes=0), str(save(tmp_path, state)))
    assert "not used   nothing" in report and "new        nothing" in report
    state |= {
        "heads.pre_logits.weight": torch.zeros(16, 32),
        "heads.head.weight": torch.zeros(9, 16),
    }
    assert "not used   head (9 classes)" in load_encoder(ours(), str(save(tmp_path, state)))
    timm_state = small_timm().state_dict() | {"pre_logits.fc.weight": torch.zeros(32, 32)}
    assert "loaded     30 tensors" in load_encoder(ours(), str(save(tmp_path, timm_state)))


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
    wrong = "heads is 4 in the file but 8 in the model; set --model.heads 4"
    assert wrong in error_of(ours(heads=8), "torchvision:vit_b_32")


@pytest.mark.parametrize("name", ["vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"])
def test_heads_of_torchvision_are_known(name):
    with torch.device("meta"):
        theirs = models.get_model(name, weights=None)
    assert (
        HEADS[theirs.hidden_dim, len(theirs.encoder.layers)] == theirs.encoder.layers[0].num_heads
    )


def test_torchvision_file_placed_by_hand(tmp_path, monkeypatch):
    """The file in torchvision's own cache is read by torchvision's own code, and runs nothing."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    path = tmp_path / "checkpoints" / "vit_b_16-c867db91.pth"
    path.parent.mkdir()
    theirs, mine = torchvision_vit(), ours()
    torch.save(theirs.state_dict(), path)
    load_encoder(mine, "torchvision:vit_b_16")
    mine.head.load_state_dict(theirs.heads.head.state_dict())
    assert_same_logits(mine, theirs, 8, 24)
    torch.save(Bomb(str(tmp_path / "ran")), path)
    assert str(path) in error_of(ours(), "torchvision:vit_b_16")
    assert not (tmp_path / "ran").exists()


def test_torchvision_source_without_network_or_of_unknown_name(monkeypatch):
    def get_state_dict(weights, **options):
        raise OSError("<urlopen error\n[Errno -3] Temporary failure in name resolution>")

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", get_state_dict)
    message = error_of(ours(), "torchvision:vit_b_16")
    assert "name resolution" in message and models.ViT_B_16_Weights.DEFAULT.url in message
    assert os.path.join(torch.hub.get_dir(), "checkpoints", "vit_b_16-c867db91.pth") in message
    message = error_of(ours(), "torchvision:vit_b_17")
    assert "torchvision:vit_b_16, torchvision:vit_b_32" in message and "maxvit" not in message


# Wrong sources


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"width": 64}, ["class_token [1, 1, 32]", "[1, 1, 64]", "set --model.width 32"]),
        ({"depth": 3}, ["encoder_layer_2.ln_1.weight is missing", "[32]", "set --model.depth 2"]),
        ({"depth": 1}, ["encoder_layer_1.ln_1.weight [32] has no place", "set --model.depth 2"]),
        (
            {"mlp_ratio": 4.0},
            ["encoder_layer_0.mlp.0.weight [64, 32]", "[128, 32]", "set --model.mlp_ratio 2.0"],
        ),
        (
            {"patch_size": 12},
            ["conv_proj.weight [32, 192]", "[32, 432]", "set --data.patch_size 8"],
        ),
        (
            {"patch_size": 4, "channels": 12},
            ["channels is 3 in the file but 12", "set --data.patch_size 8", "3 channels"],
        ),
        ({"channels": 1}, ["conv_proj.weight [32, 192]", "[32, 64]", "use images of 3 channels"]),
        ({"pool": "mean"}, ["class_token [1, 1, 32] has no place", "set --model.pool cls"]),
        ({"pool": "sequence"}, ["sequence_pool.score.weight is missing", "set --model.pool cls"]),
        (STEM, ["stages.0.conv1.weight is missing", "set --model.stem_layers 0"]),
        ({"width": 64, "depth": 1}, ["[1, 1, 64]", "set --model.depth 2 --model.width 32"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_another_architecture_is_refused_with_the_option_to_change(tmp_path, options, parts):
    path = save(tmp_path, torchvision_vit().state_dict())
    message = error_of(ours(**options), path)
    assert all(part in message for part in parts), message


def test_our_checkpoint_of_another_architecture(tmp_path):
    def error(hyper=None, **options):
        state = {f"net.{key}": value for key, value in ours(**options).state_dict().items()}
        return error_of(ours(), checkpoint(tmp_path, state, **(hyper or options)))

    assert "set --data.patch_size 4" in error(patch_size=4)
    assert "patch_size is 4 in the file but 8" in error(
        hyper={"patch_size": 4}
    )  # 12 channels: the same shapes
    assert "use images of 1 channels" in error(channels=1)
    assert "set --model.stem_layers 2 --data.patch_size null" in error(**STEM)
    assert "set --model.stem_layers 2 --model.stem_width 8 --data.patch_size null" in error(
        **STEM, stem_width=8
    )
    assert "set --model.stem_layers 2 --model.whiten true --data.patch_size null" in error(
        **STEM, whiten=True
    )
    assert "set --model.pool mean" in error(pool="mean")
    assert "heads is 2 in the file but 4 in the model; set --model.heads 2" in error(heads=2)
    assert "set --model.heads 3" in error(hyper={"heads": None, "size": "Ti"})
    cnn = {"net.layers.0.weight": torch.zeros(32, 1, 3, 3)}
    assert "holds a cnn, not a ViT" in error_of(ours(), checkpoint(tmp_path, cnn, kind="cnn"))
    assert "class_token is missing" in error_of(
        ours(), checkpoint(tmp_path, {"metric": torch.zeros(1)})
    )
    assert "not a checkpoint of this program" in error_of(
        ours(), save(tmp_path, {"state_dict": cnn}, "other.ckpt")
    )


@pytest.mark.parametrize(
    "missing", ["class_token", "encoder.pos_embedding", "conv_proj.bias", "encoder.ln.weight"]
)
def test_a_missing_key_is_named(tmp_path, missing):
    state = torchvision_vit().state_dict()
    del state[missing]
    assert f"{missing} is missing" in error_of(ours(), save(tmp_path, state))


def test_unknown_keys_and_odd_positions_are_named(tmp_path):
    state = small_timm().state_dict()
    extra = state | {"blocks.0.ls1.gamma": torch.ones(32)}
    assert "blocks.0.ls1.gamma [32] has no counterpart" in error_of(ours(), save(tmp_path, extra))
    odd = state | {"pos_embed": torch.zeros(1, 9, 32)}  # nine patches, no place for the class token
    assert "pos_embed [1, 9, 32] is not a square grid" in error_of(ours(), save(tmp_path, odd))
    two = state | {"pos_embed": torch.zeros(2, 10, 32)}
    assert "pos_embed [2, 10, 32] is not a square grid" in error_of(ours(), save(tmp_path, two))
    flat = state | {"pos_embed": torch.zeros(10, 32)}
    assert "pos_embed [10, 32] does not fit" in error_of(ours(), save(tmp_path, flat))
    assert "norm.bias is a int" in error_of(ours(), save(tmp_path, state | {"norm.bias": 3}))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"layer1.weight": torch.zeros(3)}, "layer1.weight is not a name of"),
        (torch.zeros(3), "a Tensor"),
        ({}, "holds no named tensors"),
        ({3: torch.zeros(3)}, "holds no named tensors"),
    ],
)
def test_a_file_that_is_not_a_vit(tmp_path, content, part):
    assert part in error_of(ours(), save(tmp_path, content))


def test_files_that_cannot_be_read(tmp_path):
    assert "no such file" in error_of(ours(), tmp_path / "nowhere.pth")
    (tmp_path / "a.folder").mkdir()
    for folder in (tmp_path, tmp_path / "a.folder"):
        assert f"{folder}: there is no trained run; check the path" in error_of(ours(), folder)
    assert "no such checkpoint" in error_of(ours(), tmp_path / "nowhere.ckpt")
    for name in ("text.pth", "empty.pth", "text.ckpt"):
        (tmp_path / name).write_bytes(b"" if "empty" in name else b"hello, I am text")
        error_of(ours(), tmp_path / name)
    path = save(tmp_path, torchvision_vit().state_dict())
    path.write_bytes(path.read_bytes()[:5000])  # half a download
    error_of(ours(), path)


@pytest.mark.parametrize("name", ["bomb.pth", "bomb.bin", "bomb.ckpt"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, name, legacy):
    mark, path = tmp_path / "ran", tmp_path / name
    state = {"state_dict": torchvision_vit().state_dict(), "bomb": Bomb(str(mark))}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    error_of(ours(), path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the bomb is a real one
    assert mark.exists()


def test_half_precision_and_gradients(tmp_path):
    state = {key: value.half() for key, value in torchvision_vit().state_dict().items()}
    mine = ours(image_size=32)
    load_encoder(mine, str(save(tmp_path, state)))
    assert all(
        p.dtype == torch.float32 and p.requires_grad and p.is_leaf for p in mine.parameters()
    )
    F.cross_entropy(mine(torch.randn(2, 16, 192)), torch.tensor([0, 1])).backward()
