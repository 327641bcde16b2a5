"""Does pre-training pay? Half of CIFAR-10's classes first, then one epoch on the other half, against from scratch.

    python -m benchmarks.transfer                                about 10 minutes on two CPU cores
    python -m benchmarks.transfer --epochs 1                     a shorter pre-training

Pre-trains on airplane, automobile, bird, cat and deer; then trains one epoch on dog, frog, horse, ship and truck,
from the pre-trained encoder, with the encoder frozen, and from scratch: the same images, order and schedule.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.training import positive, table, train
from src.data.datasets import DATASETS
from src.errors import InputError, exit_on_input_error

MODEL = "--model.width 96 --model.depth 4 --model.heads 4 --model.pool mean --model.lr 2e-3".split()
DATA = "--data.image_size 32 --data.patch_size 4 --data.batch_size 128 --data.augment.translate 4".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data/cifar10", help="CIFAR-10 as class folders, {train,test}/<class>/*")
    parser.add_argument("--epochs", type=positive, default=5, help="epochs of the pre-training")
    options = parser.parse_args()
    classes = DATASETS["cifar10"].classes
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder, "first"), Path(folder, "second")
        link_classes(Path(options.root), first, classes[:5])
        link_classes(Path(options.root), second, classes[5:])
        common = ["--config", "configs/folder.yaml", *MODEL, *DATA]
        start = train(*common, "--data.root", str(first), "--trainer.max_epochs", str(options.epochs))
        tuned = [*common, "--data.root", str(second), "--trainer.max_epochs", "1", "--model.warmup_epochs", "0.1"]
        init = ["--model.init_from", f"{start['run']}/checkpoints/best.ckpt"]
        results = {
            f"pre-training, {options.epochs} epochs": start,
            "then 1 epoch, all weights": train(*tuned, *init),
            "then 1 epoch, head alone": train(*tuned, *init, "--model.freeze", "encoder"),
            "1 epoch from scratch": train(*tuned),
        }
    print(table(results, ("test_accuracy", "test_loss", "images_seen", "train_seconds")))


def link_classes(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """A dataset of some of the classes, by links to the folders of the whole."""
    for split in ("train", "test"):
        (target / split).mkdir(parents=True)
        for name in names:
            images = source / split / name
            if not images.is_dir():
                raise InputError(f"{images}: there is no such folder; give --root CIFAR-10 as class folders")
            (target / split / name).symlink_to(images.resolve(), target_is_directory=True)


if __name__ == "__main__":
    with exit_on_input_error():
        main()
