"""Weights to and from torchvision and timm give the same logits."""

import pytest
import torch
from vits import assert_same_logits, ours, save, small_timm, timm_vit, torchvision_vit

from src.errors import InputError
from src.extras.weights.load_encoder import load_encoder, resample_positions
from src.extras.weights.names import from_timm, from_torchvision, to_timm, to_torchvision
from src.models.vit import VisionTransformer


@pytest.mark.parametrize(
    ("image_size", "patch_size", "width", "depth", "heads", "mlp_ratio"),
    [(24, 8, 32, 2, 4, 2), (28, 7, 48, 3, 3, 4), (16, 16, 24, 1, 1, 3), (32, 16, 64, 2, 8, 1)],
)
def test_torchvision_and_ours_give_the_same_logits_both_ways(
    image_size, patch_size, width, depth, heads, mlp_ratio
):
    shape = {"width": width, "depth": depth, "heads": heads, "mlp_ratio": mlp_ratio}
    theirs, mine = (
        torchvision_vit(image_size, patch_size, **shape),
        ours(image_size, patch_size, **shape),
    )
    mine.load_state_dict(from_torchvision(theirs.state_dict()))
    assert_same_logits(mine, theirs, patch_size, image_size, batch=3)

    mine = ours(image_size, patch_size, **shape)
    theirs.load_state_dict(to_torchvision(mine.state_dict()))
    assert_same_logits(mine, theirs, patch_size, image_size, batch=3)


@pytest.mark.parametrize("channels", [1, 3])
def test_timm_and_ours_give_the_same_logits_both_ways(channels):
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
def test_the_sizes_of_the_paper_are_those_of_timm(name, size, patch_size, image_size):
    theirs = timm_vit(name, img_size=image_size)
    mine = VisionTransformer(
        image_size=image_size, patch_size=patch_size, channels=3, classes=1000, size=size
    ).eval()
    mine.load_state_dict(from_timm(theirs.state_dict()))
    assert_same_logits(mine, theirs, patch_size, image_size)


@pytest.mark.parametrize(("to", "back"), [(to_torchvision, from_torchvision), (to_timm, from_timm)])
def test_there_and_back_is_the_same_state_dict(to, back):
    state = ours().state_dict()
    again = back(to(state))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], state[key]) for key in state)


@pytest.mark.parametrize("convert", [from_torchvision, from_timm, to_torchvision, to_timm])
def test_a_key_without_counterpart_is_named(convert):
    with pytest.raises(InputError, match=r"blocks\.0\.ls1\.gamma \[32\] has no counterpart"):
        convert({"blocks.0.ls1.gamma": torch.zeros(32)})


def test_a_stem_and_wrong_channels_are_not_converted():
    with pytest.raises(InputError, match=r"embed\.stages\.0\.conv1\.weight"):
        to_torchvision(ours(patch_size=None, stem_layers=2).state_dict())
    with pytest.raises(
        InputError, match=r"embed\.weight \[32, 64\] is not a square patch of 3 channels"
    ):
        to_timm(ours(channels=1).state_dict())
    with pytest.raises(InputError, match=r"conv_proj\.weight \[32, 3\] is not a convolution"):
        from_torchvision({"conv_proj.weight": torch.zeros(32, 3)})


@pytest.mark.parametrize(("old", "new"), [(14, 24), (24, 14), (7, 7), (3, 8)])
@pytest.mark.parametrize("extra", [0, 1])
def test_positions_are_resampled_as_timm_does(old, new, extra):
    layers = pytest.importorskip(
        "timm.layers", reason="timm is a development dependency: pip install timm"
    )
    positions = torch.randn(1, old**2 + extra, 16)
    expected = layers.resample_abs_pos_embed(positions, [new, new], num_prefix_tokens=extra)
    got = resample_positions(positions, new, extra)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert torch.equal(got[:, :extra], positions[:, :extra])
    assert resample_positions(positions.half(), new, extra).dtype == torch.float16


def test_resampling_keeps_orientation_and_refuses_rectangles():
    ramp = torch.arange(4.0).repeat(4, 1).reshape(1, 16, 1)  # grows with x, not with y
    grid = resample_positions(torch.cat([torch.full((1, 1, 1), 9.0), ramp], dim=1), 8, 1)[
        0, 1:, 0
    ].view(8, 8)
    assert (
        torch.allclose(grid, grid[:1].expand(8, 8), atol=1e-5) and (grid[0].diff() > 0).sum() >= 5
    )
    with pytest.raises(InputError, match=r"\[1, 13, 2\] are not a square grid after 1 extra"):
        resample_positions(torch.zeros(1, 13, 2), 4, 1)


def test_logits_at_384_after_resampling_are_those_of_timm(tmp_path):
    small, large = timm_vit(), timm_vit(img_size=384)
    filtered = pytest.importorskip("timm.models.vision_transformer").checkpoint_filter_fn(
        small.state_dict(), large
    )
    large.load_state_dict(filtered)
    mine = VisionTransformer(
        image_size=384, patch_size=16, channels=3, classes=1000, size="Ti"
    ).eval()
    report = load_encoder(mine, str(save(tmp_path, small.state_dict())))
    assert "positions from 14x14 to 24x24" in report
    mine.head.load_state_dict(small.head.state_dict())
    assert_same_logits(mine, large, 16, 384)
