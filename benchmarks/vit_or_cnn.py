"""MNIST: a ViT and a CNN side by side, the same images, budget and road. Prints a table.

python -m benchmarks.vit_or_cnn                              about 10 minutes on two CPU cores
python -m benchmarks.vit_or_cnn --trainer.max_epochs 1       flags go to both trainings
"""

import argparse

from benchmarks.training import table, train
from src.errors import exit_on_input_error

ROWS = {
    "ViT, patch 7, 4 layers": "configs/mnist_patch7.yaml",
    "CNN, 32 and 64 channels": "configs/mnist_cnn.yaml",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _, flags = parser.parse_known_args()
    results = {name: train("--config", config, *flags) for name, config in ROWS.items()}
    columns = (
        "test_accuracy",
        "test_loss",
        "parameters",
        "epochs",
        "images_per_second",
        "train_seconds",
    )
    print(table(results, columns))


if __name__ == "__main__":
    with exit_on_input_error():
        main()
