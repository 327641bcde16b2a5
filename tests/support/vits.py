"""Vision Transformers from this project, torchvision and timm, and files with their weights."""

import pytest
import torch
from torchvision import models

from src.config import DatasetInfo, TrainingConfig, ViTConfig
from src.errors import InputError
from src.models.vit import VisionTransformer
from src.runs.checkpoint import FORMAT, describe

TEMPERATURE = 1.6  # of a checkpoint in the tests of export
SMALL = {"width": 32, "depth": 2, "heads": 4, "mlp_ratio": 2.0}


def dataset(image_size=24, patch_size=8, classes=7, channels=3) -> DatasetInfo:
    return DatasetInfo(
        image_size=image_size,
        patch_size=patch_size,
        classes=classes,
        channels=channels,
    )


def vit(image_size=24, patch_size=8, classes=7, channels=3, **options) -> VisionTransformer:
    """Return a newly initialized network of this project, in training mode."""
    images = dataset(image_size, patch_size, classes, channels)
    return VisionTransformer(ViTConfig(**options), images)


def ours(**options) -> VisionTransformer:
    """Return a small network of this project with random weights, in evaluation mode."""
    return randomize(vit(**SMALL | options)).eval()


def randomize(module):
    """Randomize all parameters, because initial zeros and ones would hide bugs."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            is_norm = parameter.ndim == 1 and name.endswith("weight")
            fan_in = parameter[0].numel() if parameter.ndim in (2, 4) else 4
            std = 0.2 if parameter.ndim == 1 else fan_in**-0.5
            parameter.normal_(mean=float(is_norm), std=std)
    return module


def patchify(images, patch_size):
    """Split images into patches with loops: [B, C, H, W] -> [B, N, P*P*C], channels last."""
    steps = range(0, images.shape[2], patch_size)
    patches = [
        images[:, :, y : y + patch_size, x : x + patch_size].permute(0, 2, 3, 1).flatten(1)
        for y in steps
        for x in steps
    ]
    return torch.stack(patches, dim=1)


def torchvision_vit(
    image_size=24, patch_size=8, classes=7, width=32, depth=2, heads=4, mlp_ratio=2
):
    network = models.VisionTransformer(
        image_size, patch_size, depth, heads, width, width * mlp_ratio, num_classes=classes
    )
    return randomize(network).eval()


def timm_vit(name="vit_tiny_patch16_224", **options):
    timm = pytest.importorskip("timm", reason="timm is a development dependency: pip install timm")
    return randomize(timm.create_model(name, pretrained=False, **options)).eval()


def small_timm(image_size=24, classes=7, **options):
    small = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2}
    return timm_vit(img_size=image_size, num_classes=classes, **small | options)


@torch.no_grad()
def assert_same_logits(network, other, patch_size, image_size, channels=3, batch=1):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, channels, image_size, image_size, generator=generator)
    expected, actual = other(images), network(patchify(images, patch_size))
    assert expected.std() > 0.1, "the comparison needs logits that differ"
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def load_error(network, source):
    """Return the one-line error of `load_encoder`, and check that the network is unchanged."""
    from src.extras.weights.load_encoder import load_encoder

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


def save_module(path, module):
    """Write a checkpoint of an untrained Lightning module and return its path."""
    content = {
        "format": FORMAT,
        "hyper_parameters": dict(module.hparams),
        "state_dict": module.state_dict(),
        "temperature": module.temperature,
    }
    torch.save(content, path)
    return path


def checkpoint(tmp_path, state, images=None, ensemble=1, **network):
    """Write a checkpoint that contains only the keys that `Checkpoint.open` reads."""
    config = ViTConfig(**SMALL | network)
    training = TrainingConfig(ensemble=ensemble)
    hyper_parameters = describe(images or dataset(), config, training)
    content = {"format": FORMAT, "state_dict": state, "hyper_parameters": hyper_parameters}
    return save(tmp_path, content, "best.ckpt")
