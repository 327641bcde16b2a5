"""Weights converted to and from torchvision and timm give the same logits."""

import pytest
import torch
from vits import assert_same_logits, ours, save, small_timm, timm_vit, torchvision_vit, vit

from src.errors import InputError
from src.extras.weights.load_encoder import load_encoder, resample_positions
from src.extras.weights.names import from_timm, from_torchvision, to_timm, to_torchvision

CONVERTERS = [from_torchvision, from_timm, to_torchvision, to_timm]


@pytest.mark.parametrize(
    ("image_size", "patch_size", "width", "depth", "heads", "mlp_ratio"),
    [(28, 7, 48, 3, 3, 4), (16, 16, 24, 1, 1, 3)],
)
def test_torchvision_both_ways(image_size, patch_size, width, depth, heads, mlp_ratio):
    shape = {
        "image_size": image_size,
        "patch_size": patch_size,
        "width": width,
        "depth": depth,
        "heads": heads,
        "mlp_ratio": mlp_ratio,
    }
    theirs, mine = torchvision_vit(**shape), ours(**shape)
    mine.load_state_dict(from_torchvision(theirs.state_dict()))
    assert_same_logits(mine, theirs, patch_size, image_size, batch=3)

    mine = ours(**shape)
    theirs.load_state_dict(to_torchvision(mine.state_dict()))
    assert_same_logits(mine, theirs, patch_size, image_size, batch=3)


@pytest.mark.parametrize("channels", [1, 3])
def test_timm_both_ways(channels):
    theirs, mine = small_timm(in_chans=channels), ours(channels=channels)
    mine.load_state_dict(from_timm(theirs.state_dict()))
    assert_same_logits(mine, theirs, 8, 24, channels, batch=3)

    mine = ours(channels=channels)
    theirs.load_state_dict(to_timm(mine.state_dict(), channels=channels))
    assert_same_logits(mine, theirs, 8, 24, channels, batch=3)


@pytest.mark.parametrize(
    ("name", "size", "patch_size", "image_size"),
    [
        ("vit_tiny_patch16_224", "Ti", 16, 224),
        ("vit_small_patch32_224", "S", 32, 384),
        ("vit_base_patch32_224", "B", 32, 224),
    ],
)
def test_sizes_of_the_paper_match_timm(name, size, patch_size, image_size):
    theirs = timm_vit(name, img_size=image_size)
    mine = vit(image_size, patch_size, classes=1000, size=size).eval()
    mine.load_state_dict(from_timm(theirs.state_dict()))
    assert_same_logits(mine, theirs, patch_size, image_size)


@pytest.mark.parametrize("convert", CONVERTERS)
def test_key_without_counterpart_is_named(convert):
    with pytest.raises(InputError, match=r"blocks\.0\.ls1\.gamma \[32\] has no counterpart"):
        convert({"blocks.0.ls1.gamma": torch.zeros(32)})


def test_stem_and_wrong_channels_are_refused():
    stem = ours(patch_size=None, stem_layers=2).state_dict()
    with pytest.raises(InputError, match=r"embed\.stages\.0\.conv1\.weight"):
        to_torchvision(stem)
    gray = ours(channels=1).state_dict()
    message = r"embed\.weight \[32, 64\] is not a square patch of 3 channels"
    with pytest.raises(InputError, match=message):
        to_timm(gray)
    with pytest.raises(InputError, match=r"conv_proj\.weight \[32, 3\] is not a convolution"):
        from_torchvision({"conv_proj.weight": torch.zeros(32, 3)})


@pytest.mark.parametrize(("old", "new"), [(14, 24), (24, 14), (7, 7), (3, 8)])
@pytest.mark.parametrize("extra", [0, 1])
def test_positions_are_resampled_as_in_timm(old, new, extra):
    layers = pytest.importorskip("timm.layers", reason="needs timm: pip install timm")
    positions = torch.randn(1, old**2 + extra, 16)
    expected = layers.resample_abs_pos_embed(positions, [new, new], num_prefix_tokens=extra)
    actual = resample_positions(positions, new, extra)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    assert resample_positions(positions.half(), new, extra).dtype == torch.float16


def test_positions_of_a_rectangle_are_refused():
    with pytest.raises(InputError, match=r"\[1, 13, 2\] are not a square grid after 1 extra"):
        resample_positions(torch.zeros(1, 13, 2), 4, 1)


def test_resampled_network_has_the_logits_of_timm(tmp_path):
    timm = pytest.importorskip("timm.models.vision_transformer", reason="needs timm")
    small, large = timm_vit(), timm_vit(img_size=384)
    large.load_state_dict(timm.checkpoint_filter_fn(small.state_dict(), large))
    mine = vit(384, 16, classes=1000, size="Ti").eval()
    report = load_encoder(mine, str(save(tmp_path, small.state_dict())))
    assert "positions from 14x14 to 24x24" in report
    mine.head.load_state_dict(small.head.state_dict())
    assert_same_logits(mine, large, 16, 384)
