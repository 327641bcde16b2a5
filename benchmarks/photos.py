"""Draw MNIST test digits as photos, scans and drawings, and count how many a network gets right.

    python -m benchmarks.photos data/runs/mnist/version_0
    python -m benchmarks.photos data/runs/mnist/version_0 --kinds "one box" margin --count 50
    python -m benchmarks.photos data/runs/mnist/version_0 --split val --seeds 10    for tuning
    python -m benchmarks.photos data/runs/mnist/version_0 --count 20 --keep photos  for viewing

Prints a table with a row per kind: the number of images per seed, the number of correct predictions
for each seed, and, over all seeds, the number of refused images and of wrong predictions with a
probability above 90%. `docs/photos.md` has the results. `photo_kinds.py` documents the kinds.
"""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.photo_kinds import KINDS
from benchmarks.tables import Rows, make_parser, positive, table
from src.data.image_set import ImageSet
from src.data.modules import MNISTDataModule
from src.errors import InputError, exit_on_input_error
from src.extras.paper.reader import digit_reader
from src.inference.predictor import Predictor
from src.runs.directory import find_checkpoint

SURE = 0.9  # wrong predictions with a higher probability count as misleading


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
    if options.keep and options.keep.exists():
        raise InputError(f"--keep {options.keep}: already exists; choose another folder")

    predictor = Predictor(find_checkpoint(options.run), "cpu")
    data = MNISTDataModule(root=options.data, val_fraction=0.05)  # see configs/mnist.yaml
    data.prepare_data()
    digits = data.sets[options.split]
    assert digits is not None  # MNIST has both splits

    rows: Rows = {}
    with tempfile.TemporaryDirectory() as temporary:
        for kind in options.kinds:
            rows[kind] = {"of": options.count}
            total = Counter[str]()
            for seed in options.seeds:
                folder = Path(options.keep or temporary, f"{kind}_{seed}".replace(" ", "_"))
                draw(digits, kind, seed, options.count, folder)
                counts = classify(predictor, folder)
                rows[kind][f"seed {seed}"] = counts["correct"]
                total += counts
            rows[kind] |= {"refused": total["refused"], "wrong above 90%": total["misleading"]}
    print(table(rows, tuple(rows[options.kinds[0]])))


def draw(digits: ImageSet, kind: str, seed: int, count: int, folder: Path) -> None:
    """Draw random digits and write them to files whose names start with the label."""
    folder.mkdir(parents=True)
    order = np.random.default_rng(seed).permutation(len(digits))[:count]
    images = digits.images[order, 0].numpy()
    labels = digits.labels[order].tolist()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        content, extension = KINDS[kind](image, np.random.default_rng([seed, number]))
        path = folder / f"{label}_{number:03}.{extension}"
        path.write_bytes(content)


def classify(predictor: Predictor, folder: Path) -> Counter[str]:
    """Count the outcomes of the images in a folder, and append the outcome to each file name."""
    read = digit_reader(predictor.dataset)
    if read is None:
        raise InputError(f"{predictor.dataset.name}: not MNIST; pass a run trained on MNIST")
    counts = Counter[str]()
    for path in sorted(folder.iterdir()):
        label = int(path.name[0])
        try:
            image = read(str(path)).image
        except InputError:
            outcome = "refused"
        else:
            probability, answer = predictor.probabilities(image[None])[0].max(dim=0)
            wrong = "misleading" if probability > SURE else "wrong"
            outcome = "correct" if answer == label else wrong
        counts[outcome] += 1
        path.rename(folder / f"{path.stem}_{outcome}{path.suffix}")
    return counts


if __name__ == "__main__":
    with exit_on_input_error():
        main()
