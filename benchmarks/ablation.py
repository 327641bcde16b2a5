"""What each part of a recipe is worth: the recipe with one thing changed, at equal images seen. Prints a table.

    python -m benchmarks.ablation mnist --trainer.max_epochs 2 --seeds 0 1
    python -m benchmarks.ablation cifar10_cpu --trainer.max_epochs 3 --data.val_fraction 0.2

Accuracies are those of training images that are held out, a twentieth if no flag says otherwise: the test images choose
nothing. Other flags go to all trainings.
"""

import argparse

from benchmarks.seeds import summary
from benchmarks.training import printed_table, train
from src.errors import exit_on_input_error

CHANGES = {
    "mnist": {
        "the recipe": "",
        "AdamW in place of Muon": "--model.optimizer adamw --model.lr 4e-3",  # it wants a lower one
        "no average of the weights": "--model.ema_decay 0",
        "no augmentation": "--data.augment.translate 0 --data.augment.rotate 0 --data.augment.scale 0",
        "class token in place of the mean": "--model.pool cls",
        "MLP ratio 4": "--model.mlp_ratio 4",
    },
    "mnist_best": {
        "the recipe": "",
        "AdamW in place of Muon": "--model.optimizer adamw --model.lr 2e-3",
        "width 96 and 3 blocks": "--model.width 96 --model.depth 3 --model.heads 3",
        "no label smoothing": "--model.label_smoothing 0",
        "translate 1 in place of 2": "--data.augment.translate 1",
        "a single network": "--model.ensemble 1 --data.batch_size 128 --model.warmup_epochs 1",
    },
    "cifar10_cpu": {
        "the recipe": "",
        "AdamW in place of Muon": "--model.optimizer adamw --model.lr 2e-3",
        "patches of 8 pixels in place of the stem": "--model.stem_layers 0 --model.whiten false --data.patch_size 8",
        "no whitening, and ReLU": "--model.whiten false",
        "no average of the weights": "--model.ema_decay 0",
        "no erasing": "--data.augment.erase 0",
        "no label smoothing": "--model.label_smoothing 0",
        "sequence pooling in place of the mean": "--model.pool sequence",
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "config", choices=CHANGES, help="comes first; all other flags go to train.py"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0],
        help="one training of every row for each of them",
    )
    options, flags = parser.parse_known_args()
    common = ["--config", f"configs/{options.config}.yaml", "--data.val_fraction", "0.05"]
    common += ["--trainer.limit_test_batches", "0", *flags]
    with printed_table() as results:
        for name, change in CHANGES[options.config].items():
            runs = [
                train(*common, *change.split(), "--seed_everything", str(seed))
                for seed in options.seeds
            ]
            results[name] = summary(runs) | {"images_seen": runs[0]["images_seen"]}


if __name__ == "__main__":
    with exit_on_input_error():
        main()
