"""Render MNIST test digits as many kinds of images and count a network's correct predictions.

    python -m benchmarks.photos data/runs/mnist/version_0
    python -m benchmarks.photos data/runs/mnist/version_0 --kinds "one box" margin --count 50
    python -m benchmarks.photos data/runs/mnist/version_0 --split val --seeds 10    for tuning
    python -m benchmarks.photos data/runs/mnist/version_0 --count 20 --keep photos  for viewing

Prints a table row per kind: the number of images per seed, the number of correct predictions for
each seed, and, over all seeds, the number of rejected images and of wrong predictions with a
probability above 90%. `docs/photos.md` has the results. `photographer.py` documents the photos of
ink on paper, and `photo_kinds.py` all other kinds.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.photo_kinds import KINDS, photograph
from benchmarks.tables import make_parser, positive
from src.data.image_set import ImageSet
from src.data.modules import MNISTDataModule
from src.errors import InputError, exit_on_input_error
from src.extras.paper.reader import digit_reader
from src.inference.predictor import Predictor, PreparedImage
from src.runs.directory import find_checkpoint

SURE = 0.9  # wrong predictions with a higher probability count as misleading

Read = Callable[[str], PreparedImage]


@dataclass
class Count:
    """Prediction counts for the images of one kind and seed."""

    right: int = 0
    refused: int = 0
    misleading: int = 0


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("run", help="run directory or checkpoint trained on MNIST")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--count", type=positive, default=200, help="images per kind and seed")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--data", default="data", help="dataset folder")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the images in DIR")
    options = parser.parse_args()

    predictor = Predictor(find_checkpoint(options.run), "cpu")
    read = digit_reader(predictor.dataset)
    if read is None:
        raise InputError(f"{options.run}: not trained on MNIST; pass a run trained on MNIST")
    data = MNISTDataModule(root=options.data, val_fraction=0.05)  # see configs/mnist.yaml
    data.prepare_data()
    digits = data.sets[options.split]
    assert digits is not None  # MNIST has both splits

    seeds = [f"seed {seed}" for seed in options.seeds]
    print("| kind", "of", *seeds, "refused", "wrong above 90% |", sep=" | ")
    print("|---" * (len(seeds) + 4) + "|")
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as temporary:
            root = options.keep or Path(temporary)
            counts = []
            for seed in options.seeds:
                folder = root / f"{kind}_{seed}".replace(" ", "_")
                folder.mkdir(parents=True, exist_ok=True)
                render(digits, kind, seed, options.count, folder)
                counts.append(count_folder(predictor, read, folder))
        refused = sum(count.refused for count in counts)
        misleading = sum(count.misleading for count in counts)
        rights = [count.right for count in counts]
        print(
            f"| {kind}", options.count, *rights, refused, f"{misleading} |", sep=" | ", flush=True
        )


def render(digits: ImageSet, kind: str, seed: int, count: int, folder: Path) -> None:
    """Draw random digits and write them to files whose names start with the label."""
    order = np.random.default_rng(seed).permutation(len(digits))[:count]
    images = digits.images[order, 0].numpy()
    labels = digits.labels[order].tolist()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        rng = np.random.default_rng([seed, number])
        content, extension = photograph(image, kind, rng)
        path = folder / f"{label}_{number:03}.{extension}"
        path.write_bytes(content)


def count_folder(predictor: Predictor, read: Read, folder: Path) -> Count:
    """Classify the images in a folder, and rename the files with wrong predictions."""
    count = Count()
    for path in sorted(folder.iterdir()):
        label = int(path.name[0])
        try:
            image = read(str(path)).image
        except InputError:
            count.refused += 1
            path.rename(folder / f"refused_{path.name}")
            continue
        probability, answer = predictor.probabilities(image[None])[0].max(dim=0)
        if answer == label:
            count.right += 1
            continue
        count.misleading += int(probability > SURE)
        path.rename(folder / f"read_{int(answer)}_{path.name}")
    return count


if __name__ == "__main__":
    with exit_on_input_error():
        main()
