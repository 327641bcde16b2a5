"""Vision Transformers of ours, torchvision's and timm's, and files of their weights."""

import pytest
import torch
from torchvision import models

from src.errors import InputError
from src.extras.weights.load_encoder import load_encoder
from src.models.vit import VisionTransformer
from src.runs.checkpoint import FORMAT

SMALL = {"width": 32, "depth": 2, "heads": 4, "mlp_ratio": 2.0}


def randomize(module):
    """Random values for every parameter: heads start at zero and norms at one, which would hide mistakes."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            norm = parameter.ndim == 1 and name.endswith("weight")
            fan_in = parameter[0].numel() if parameter.ndim in (2, 4) else 4
            parameter.normal_(mean=float(norm), std=0.2 if parameter.ndim == 1 else fan_in**-0.5)
    return module


def patchify(images, patch_size):
    """[B, C, H, W] -> [B, N, P*P*C] by loops over the grid, channel last."""
    side = range(0, images.shape[2], patch_size)
    rows = [
        images[:, :, y : y + patch_size, x : x + patch_size].permute(0, 2, 3, 1).flatten(1)
        for y in side
        for x in side
    ]
    return torch.stack(rows, dim=1)


def ours(image_size=24, patch_size=8, classes=7, channels=3, **options):
    shape = {
        "image_size": image_size,
        "patch_size": patch_size,
        "channels": channels,
        "classes": classes,
    }
    return randomize(VisionTransformer(**shape, **SMALL | options)).eval()


def torchvision_vit(
    image_size=24, patch_size=8, classes=7, width=32, depth=2, heads=4, mlp_ratio=2
):
    hidden = width * mlp_ratio
    return randomize(
        models.VisionTransformer(
            image_size, patch_size, depth, heads, width, hidden, num_classes=classes
        )
    ).eval()


def timm_vit(name="vit_tiny_patch16_224", **options):
    timm = pytest.importorskip("timm", reason="timm is a development dependency: pip install timm")
    return randomize(timm.create_model(name, pretrained=False, **options)).eval()


def small_timm(image_size=24, classes=7, **options):
    small = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2}
    return timm_vit(img_size=image_size, num_classes=classes, **small | options)


@torch.no_grad()
def assert_same_logits(network, other, patch_size, image_size, channels=3, batch=1):
    images = torch.randn(
        batch, channels, image_size, image_size, generator=torch.Generator().manual_seed(1)
    )
    expected, got = other(images), network(patchify(images, patch_size))
    assert expected.std() > 0.1, "logits without spread would prove nothing"
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def error_of(network, source):
    """The one-line message of the InputError; the network must be untouched."""
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_encoder(network, str(source))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(source))
    return message


def save(tmp_path, content, name="weights.pth"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def checkpoint(tmp_path, state, **network):
    """A checkpoint as `train.py` writes it, as far as it matters here."""
    network = {"kind": "vit", "patch_size": 8, "channels": 3, "size": "Ti", "heads": 4} | network
    hyper_parameters = {"network": network, "dataset": {"classes": ["a", "b"]}}
    content = {"format": FORMAT, "state_dict": state, "hyper_parameters": hyper_parameters}
    return save(tmp_path, content, "best.ckpt")
