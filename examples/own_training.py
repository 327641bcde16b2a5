"""Train on your own data with Lightning's Trainer, and predict.

    python -m examples.own_training                   # takes half a minute on one CPU core

The images are generated, not downloaded: circles, squares and triangles with random positions,
sizes and shades.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch
from PIL import Image, ImageDraw
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.config import DatasetInfo
from src.training.classifier import ViT

CLASSES = ("circle", "square", "triangle")
SIDE = 32  # pixels


class Shapes(Dataset):
    """Random shapes, uint8 [1, 32, 32], with labels. Each image depends only on seed and index.

    Args:
        count: number of images.
        seed: seed for generating the images.
        augment: function to apply to each training image.
    """

    def __init__(self, count: int, seed: int, augment: Callable[[Tensor], Tensor] | None = None):
        self.count = count
        self.seed = seed
        self.augment = augment

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        label = int(torch.randint(3, (), generator=random))
        image = draw(label, random)
        if self.augment:
            image = self.augment(image)
        return image, label


def draw(label: int, random: torch.Generator) -> Tensor:
    """Draw one shape on a noisy background, uint8 [1, 32, 32]."""
    ranges = torch.tensor([12, 12, 4, 120])
    left, top, size, shade = (torch.rand(4, generator=random) * ranges).tolist()
    x, y, radius = left + 10, top + 10, size + 5
    fill = round(shade) + 60
    picture = Image.new("L", (SIDE, SIDE))
    pen = ImageDraw.Draw(picture)
    if CLASSES[label] == "circle":
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill)
    else:
        corners = 4 if CLASSES[label] == "square" else 3
        pen.regular_polygon((x, y, radius), corners, fill=fill)
    noise = torch.randint(60, (1, SIDE, SIDE), generator=random)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    noisy = pixels.view(1, SIDE, SIDE) + noise
    return noisy.clamp(max=255).to(torch.uint8)


def rotate_and_flip(image: Tensor) -> Tensor:
    """Rotate an image by a random multiple of 90 degrees, and flip it with probability 0.5.

    Any other function that maps an image to an image works too, such as a torchvision transform.
    """
    rotated = torch.rot90(image, int(torch.randint(4, ())), (1, 2))
    return rotated.flip(2) if torch.rand(()) < 0.5 else rotated


def build_model() -> ViT:
    """Return a small ViT for the shapes."""
    dataset = DatasetInfo(
        name="shapes",
        classes=CLASSES,
        image_size=SIDE,
        channels=1,
        patch_size=8,
        mean=(0.2,),
        std=(0.2,),
    )
    return ViT(
        dataset,
        width=64,
        depth=4,
        heads=4,
        pool="mean",
        lr=2e-3,
        warmup_epochs=2,
        weight_decay=0.05,
    )


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--images", type=int, default=4000, help="training images")
    parser.add_argument("--folder", type=Path, default=Path("data/own_training"))
    options = parser.parse_args(args)

    pl.seed_everything(0)
    train_images = Shapes(options.images, seed=0, augment=rotate_and_flip)
    test_images = Shapes(1000, seed=2)
    train = DataLoader(train_images, batch_size=100, shuffle=True, drop_last=True)
    val = DataLoader(Shapes(1000, seed=1), batch_size=500)
    test = DataLoader(test_images, batch_size=500)

    best = ModelCheckpoint(
        options.folder,
        filename="best",
        monitor="val_accuracy",
        mode="max",
        enable_version_counter=False,
    )
    trainer = pl.Trainer(
        max_epochs=options.epochs,
        callbacks=[best],
        logger=CSVLogger(options.folder),
        gradient_clip_val=1.0,
    )
    model = build_model()
    trainer.fit(model, train, val)
    (result,) = trainer.test(model, test, ckpt_path="best", weights_only=True, verbose=False)
    print(f"test accuracy {result['test_accuracy']:.4f}")

    model = ViT.load_from_checkpoint(best.best_model_path)
    probabilities = torch.cat(trainer.predict(model, test))
    for index in range(5):
        probability, predicted = probabilities[index].max(0)
        label = test_images[index][1]
        print(f"{CLASSES[label]:>8}: {CLASSES[predicted]} with probability {probability:.3f}")


if __name__ == "__main__":
    main()
