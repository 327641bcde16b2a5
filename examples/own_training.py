"""A training of one's own: own images, own augmentation, Lightning's own Trainer; then a plot, and predictions.

    python -m examples.own_training                   half a minute of one CPU core

Nothing is downloaded: the images are drawn, circles, squares and triangles in random places, sizes and shades.
"""

import argparse
import csv
from pathlib import Path

import matplotlib
import pytorch_lightning as pl
import torch
from PIL import Image, ImageDraw
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.training.classifier import ViT

CLASSES = ["circle", "square", "triangle"]
SIDE = 32  # pixels


class Shapes(Dataset):
    """(uint8 [1, 32, 32], label): the image with that index and seed is always the same.

    Args:
        augment: called with each image; only that of the training changes anything.
    """

    def __init__(self, count: int, seed: int, augment=None):
        self.count, self.seed, self.augment = count, seed, augment

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        label = int(torch.randint(3, (), generator=random))
        image = draw(label, random)
        return (self.augment(image) if self.augment else image), label


def draw(label: int, random: torch.Generator) -> Tensor:
    """One shape on noise: uint8 [1, 32, 32]."""
    x, y, radius, shade = (
        torch.rand(4, generator=random) * torch.tensor([12, 12, 4, 120])
    ).tolist()
    x, y, radius = x + 10, y + 10, radius + 5
    picture = Image.new("L", (SIDE, SIDE))
    if label == 0:
        ImageDraw.Draw(picture).ellipse(
            [x - radius, y - radius, x + radius, y + radius], round(shade) + 60
        )
    else:
        ImageDraw.Draw(picture).regular_polygon(
            (x, y, radius), 4 if label == 1 else 3, fill=round(shade) + 60
        )
    noise = torch.randint(60, (1, SIDE, SIDE), generator=random)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(1, SIDE, SIDE)
    return (pixels + noise).clamp(max=255).to(torch.uint8)


def turn_and_mirror(image: Tensor) -> Tensor:
    """The own augmentation: quarter turns, and mirrors. Any function of an image does, those of torchvision, too."""
    turned = torch.rot90(image, int(torch.randint(4, ())), (1, 2))
    return turned.flip(2) if torch.rand(()) < 0.5 else turned


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--images", type=int, default=4000, help="training images")
    parser.add_argument("--folder", type=Path, default=Path("data/own_training"))
    options = parser.parse_args(args)

    pl.seed_everything(0)
    train = DataLoader(
        Shapes(options.images, seed=0, augment=turn_and_mirror), 100, shuffle=True, drop_last=True
    )
    val, test = (DataLoader(Shapes(1000, seed), 500) for seed in (1, 2))
    dataset = dict(
        name="shapes",
        classes=CLASSES,
        image_size=SIDE,
        channels=1,
        patch_size=8,
        mean=[0.2],
        std=[0.2],
    )
    model = ViT(
        dataset,
        width=64,
        depth=4,
        heads=4,
        pool="mean",
        lr=2e-3,
        warmup_epochs=2,
        weight_decay=0.05,
    )

    best = ModelCheckpoint(
        options.folder, "best", monitor="val_accuracy", mode="max", enable_version_counter=False
    )
    logger = CSVLogger(options.folder)
    trainer = pl.Trainer(
        max_epochs=options.epochs, callbacks=[best], logger=logger, gradient_clip_val=1.0
    )
    trainer.fit(model, train, val)
    (tested,) = trainer.test(model, test, ckpt_path="best", weights_only=True, verbose=False)
    print(f"test accuracy {tested['test_accuracy']:.4f}")

    plot(Path(logger.log_dir, "metrics.csv"), options.folder / "learning.png")
    model = ViT.load_from_checkpoint(best.best_model_path)
    probabilities = torch.cat(trainer.predict(model, test))
    for index in range(5):
        probability, guess = probabilities[index].max(0)
        print(
            f"{CLASSES[test.dataset[index][1]]:>8}: {CLASSES[guess]} with probability {probability:.3f}"
        )


def plot(table: Path, picture: Path) -> None:
    """Accuracy by epoch, from the table that Lightning's logger wrote."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    figure, axes = pyplot.subplots(figsize=(6, 4))
    for split in ("train", "val"):
        values = [float(row[f"{split}_accuracy"]) for row in rows if row[f"{split}_accuracy"]]
        axes.plot(range(1, len(values) + 1), values, label=split)
    axes.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1))
    axes.legend()
    figure.savefig(picture, dpi=100)
    pyplot.close(figure)
    print(f"{picture}: the curves")


if __name__ == "__main__":
    main()
