"""Images a second of bare training steps on one batch that stays on the device: of our recipes, and of eager peers.

A step is forward, loss, backward, clipping, the optimizer and, where the recipe has one, the average of the weights,
with nothing around it: no data, no loop of Lightning's, no validation. `benchmarks.gpu` measures these beside the same
recipes as `train.py` runs them.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from torch import nn

from benchmarks import peers
from benchmarks.peers import Shape
from benchmarks.throughput import CLIP, wait_for
from src.cli.messages import quiet
from src.cli.parser import parse

WARM_UP, ROUNDS = 3, 5


def measure_recipe(flags: list[str], device: str, steps: int) -> tuple[float, float | None]:
    """Images a second of a recipe's step on one augmented batch, and the GPU memory it took in GiB."""
    quiet()
    settings = parse(flags)
    data, model = settings.data, settings.model.to(device)
    trainer = Trainer(accelerator=device, devices=1, logger=False, enable_checkpointing=False)
    model.trainer = data.trainer = trainer
    trainer.training = True
    info, size = data.info, data.info.image_size
    images = torch.randint(
        0, 256, (data.batch_size, info.channels, size, size), dtype=torch.uint8, device=device
    )
    labels = torch.arange(data.batch_size, device=device) % len(info.classes)
    batch = data.on_after_batch_transfer((images, labels), 0)
    model.train()
    model.on_train_epoch_start()
    optimizer = model.configure_optimizers()

    def step() -> None:
        optimizer.zero_grad()
        with autocast(device):
            loss = model.training_step(batch, 0)
        loss.backward()
        model.configure_gradient_clipping(optimizer, CLIP)
        model.optimizer_step(0, 0, optimizer, lambda: None)

    return measure(step, data.batch_size, device, steps)


def measure_network(name: str, device: str, batch: int, steps: int) -> tuple[float, float | None]:
    """The same of a network of `VIT_TI`, with PyTorch's fused AdamW."""
    net = VIT_TI[name]().to(device).train()
    images, labels = (
        torch.randn(batch, 3, 32, 32, device=device),
        torch.arange(batch, device=device) % 10,
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(device):
            loss = F.cross_entropy(net(images), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()

    return measure(step, batch, device, steps)


def measure(
    step: Callable[[], None], batch: int, device: str, steps: int
) -> tuple[float, float | None]:
    """Images a second, the median of rounds of so many steps, and GiB; the first steps, which compile, do not count."""
    for _ in range(WARM_UP):
        step()
    speeds = []
    for _ in range(ROUNDS):
        wait_for(device)
        start = time.perf_counter()
        for _ in range(steps):
            step()
        wait_for(device)
        speeds.append(steps * batch / (time.perf_counter() - start))
    memory = round(torch.cuda.max_memory_allocated() / 2**30, 1) if device == "cuda" else None
    return statistics.median(speeds), memory


def autocast(device: str):
    return torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda")


TI = Shape(image_size=32, channels=3, patch_size=4, width=192, depth=12, heads=3)
VIT_TI = {  # one network, of several libraries
    "ours, compiled": lambda: torch.compile(peers.ours(TI)),
    "ours, eager": lambda: peers.ours(TI),
    "timm, eager": lambda: peers.timm(TI),
    "torchvision, eager": lambda: peers.torchvision(TI),
}
