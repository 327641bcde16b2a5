"""Random images, and a stub for Lightning's Trainer."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(*shape: int) -> torch.Tensor:
    """Return uint8 noise of the given shape; every call returns the same values."""
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator(1))


def pictures(channels: int, count: int = 6) -> torch.Tensor:
    """Return smooth, noisy images, uint8 [count, channels, 12, 15]; the last one is constant."""
    source = generator()
    coarse = torch.rand(count, channels, 3, 4, generator=source)
    smooth = F.interpolate(coarse, (12, 15), mode="bilinear")
    noisy = smooth + 0.1 * torch.randn(count, channels, 12, 15, generator=source)
    contrast = torch.linspace(1, 0, count).view(-1, 1, 1, 1)
    return (255 * (0.3 + contrast * (noisy - 0.3))).round().clamp(0, 255).to(torch.uint8)


def trainer(epoch=0, batch=0, rank=0, world=1, training=True, limit_val_batches=1.0):
    """Return a stub of a CPU trainer with the attributes that `src/lightning_loop.py` reads."""
    epochs = SimpleNamespace(current=SimpleNamespace(processed=epoch, ready=epoch + (batch > 0)))
    batches = SimpleNamespace(current=SimpleNamespace(processed=batch, ready=batch))
    epoch_loop = SimpleNamespace(batch_progress=batches)
    return SimpleNamespace(
        world_size=world,
        global_rank=rank,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        training=training,
        fit_loop=SimpleNamespace(epoch_progress=epochs, epoch_loop=epoch_loop),
        overfit_batches=0,
        limit_val_batches=limit_val_batches,
    )
