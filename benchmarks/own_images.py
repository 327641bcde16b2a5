"""What to expect of `configs/folder.yaml`: accuracy against images a class, and beside it that of other flags.

    python -m benchmarks.own_images --images 50 200 500
    python -m benchmarks.own_images --classes apple bicycle castle tiger whale --trainer.max_epochs 3
    python -m benchmarks.own_images --images 50 --compare "--model.lr 3e-3" --trainer.limit_test_batches 0

Cuts class folders out of CIFAR-100 (or another `--root` with {train,test}/<class>/*): of every class the first so many
training images and all test images. Each `--compare` is one more training of every size with these flags; all other
flags go to all trainings. Prints a table: accuracies of the test, or of validation where nothing was tested.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.seeds import summary
from benchmarks.training import positive, printed_table, train
from src.errors import InputError, exit_on_input_error

FIVE = ("apple", "bicycle", "castle", "tiger", "whale")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", default="data/cifar100", help="class folders, {train,test}/<class>/*"
    )
    parser.add_argument("--classes", nargs="+", default=FIVE)
    parser.add_argument(
        "--images",
        type=positive,
        nargs="+",
        default=[50, 200, 500],
        help="of a class, to train with",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--compare", action="append", default=[], help="flags of another training, in one string"
    )
    options, flags = parser.parse_known_args()
    with printed_table() as results:
        for images in options.images:
            with tempfile.TemporaryDirectory() as folder:
                link(Path(options.root), Path(folder, "images"), options.classes, images)
                for other in ("", *options.compare):
                    runs = [
                        trained(folder, *flags, *other.split(), seed=seed) for seed in options.seeds
                    ]
                    row = summary(runs) | {"epochs": runs[0]["epochs"]}
                    results[f"{images} images a class{', ' * bool(other)}{other}"] = row


def trained(folder: str, *flags: str, seed: int) -> dict:
    common = [
        "--config",
        "configs/folder.yaml",
        "--data.root",
        f"{folder}/images",
        "--pictures",
        "false",
    ]
    return train(*common, *flags, "--seed_everything", str(seed), runs=f"{folder}/runs")


def link(source: Path, target: Path, classes: list[str], images: int) -> None:
    """A dataset of some classes and images, by links to the files of the whole."""
    for split, most in (("train", images), ("test", None)):
        for name in classes:
            files = sorted((source / split / name).glob("*"))[:most]
            if len(files) < (most or 1):
                raise InputError(
                    f"{source / split / name}: has {len(files)} images; give other --classes or --images"
                )
            (target / split / name).mkdir(parents=True)
            for file in files:
                (target / split / name / file.name).symlink_to(file.resolve())


if __name__ == "__main__":
    with exit_on_input_error():
        main()
