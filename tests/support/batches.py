"""Batches of random images, a few steps on one batch, and the trainer whose loop a data module asks where it is."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(*shape: int) -> torch.Tensor:
    """uint8 of that shape, the same at every call."""
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator(1))


def pictures(channels: int, count: int = 6) -> torch.Tensor:
    """uint8 [count, channels, 12, 15]: smooth with noise, of differing contrast, the last of one value."""
    source = generator()
    smooth = F.interpolate(
        torch.rand(count, channels, 3, 4, generator=source), (12, 15), mode="bilinear"
    )
    noisy = smooth + 0.1 * torch.randn(count, channels, 12, 15, generator=source)
    span = torch.linspace(1, 0, count).view(-1, 1, 1, 1)
    return (255 * (0.3 + span * (noisy - 0.3))).round().clamp(0, 255).to(torch.uint8)


def overfit(network, x, labels, steps: int) -> list[float]:
    """Losses of so many steps on the same batch."""
    optimizer, losses = torch.optim.AdamW(network.parameters(), lr=3e-3), []
    for _ in range(steps):
        loss = F.cross_entropy(network(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def trainer(epoch=0, batch=0, rank=0, world=1, training=True) -> SimpleNamespace:
    """What `src/loop.py` reads of a trainer that has done so many epochs, and so many batches of the next, on a CPU."""
    epochs = SimpleNamespace(current=SimpleNamespace(processed=epoch, ready=epoch + (batch > 0)))
    batches = SimpleNamespace(current=SimpleNamespace(processed=batch, ready=batch))
    loop = SimpleNamespace(
        epoch_progress=epochs, epoch_loop=SimpleNamespace(batch_progress=batches)
    )
    where = SimpleNamespace(root_device=torch.device("cpu"))
    place = {"world_size": world, "global_rank": rank, "strategy": where}
    return SimpleNamespace(**place, training=training, fit_loop=loop, overfit_batches=0)
