"""Test that weights converted to or from torchvision and timm give the same logits."""

import pytest
import torch
from vits import assert_same_logits, ours, small_timm, timm_vit, torchvision_vit, vit

from src.extras.weights.load_encoder import resample_positions
from src.extras.weights.names import TIMM, TORCHVISION, from_ours, to_ours


@pytest.mark.parametrize(
    ("make", "names", "options"),
    [
        (torchvision_vit, TORCHVISION, {}),
        (small_timm, TIMM, {}),
        (small_timm, TIMM, {"in_chans": 1}),
    ],
)
def test_conversion_both_ways(make, names, options):
    channels = options.get("in_chans", 3)
    theirs = make(**options)
    mine = ours(channels=channels)
    mine.load_state_dict(to_ours(theirs.state_dict(), names))
    assert_same_logits(mine, theirs, 8, 24, channels, batch=3)

    mine = ours(channels=channels)
    theirs.load_state_dict(from_ours(mine.state_dict(), names, channels))
    assert_same_logits(mine, theirs, 8, 24, channels, batch=3)


@pytest.mark.parametrize(
    ("name", "size", "patch_size", "image_size"),
    [
        ("vit_tiny_patch16_224", "Ti", 16, 224),
        ("vit_small_patch32_224", "S", 32, 384),
        ("vit_base_patch32_224", "B", 32, 224),
    ],
)
def test_paper_sizes_match_timm(name, size, patch_size, image_size):
    theirs = timm_vit(name, img_size=image_size)
    mine = vit(image_size, patch_size, classes=1000, size=size).eval()
    mine.load_state_dict(to_ours(theirs.state_dict(), TIMM))
    assert_same_logits(mine, theirs, patch_size, image_size)


@pytest.mark.parametrize(("old", "new"), [(14, 24), (24, 14)])
@pytest.mark.parametrize("extra", [0, 1])
def test_positions_are_resampled_as_in_timm(old, new, extra):
    layers = pytest.importorskip("timm.layers", reason="needs timm: pip install timm")
    positions = torch.randn(1, old**2 + extra, 16)
    expected = layers.resample_abs_pos_embed(positions, [new, new], num_prefix_tokens=extra)
    actual = resample_positions(positions, new, extra)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    assert resample_positions(positions.half(), new, extra).dtype == torch.float16
