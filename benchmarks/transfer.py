"""Does pre-training pay? One epoch on CIFAR-10 from what CIFAR-100 has taught, against the same epoch from scratch.

    python train.py --config configs/cifar100_cpu.yaml      first; half an hour on two CPU cores
    python -m benchmarks.transfer                           then; a few minutes

Trains `configs/cifar10_finetune.yaml` as it is, with the encoder frozen, and from scratch: the same images, order and
schedule. All other flags go to the three trainings.
"""

import argparse

import yaml

from benchmarks.training import table, train
from src.errors import InputError, exit_on_input_error
from src.runs.directory import find_trained
from src.runs.results import read_results

CONFIG = "configs/cifar10_finetune.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    with open(CONFIG) as file:
        source = yaml.safe_load(file)["model"]["init_args"]["init_from"]
    parser.add_argument(
        "--source", default=source, help="a run of cifar100_cpu.yaml, or the folder of its runs"
    )
    options, flags = parser.parse_known_args()
    run = find_trained(options.source).parents[1]
    if not (trained := read_results(run)):
        raise InputError(f"{run}: is not finished; go on with it: python train.py --resume {run}")
    common = ["--config", CONFIG, "--pictures", "false", *flags]
    init = ["--model.init_from", str(run)]
    results = {
        "pre-training on CIFAR-100": trained,
        "then 1 epoch of CIFAR-10, all weights": train(*common, *init),
        "then 1 epoch of CIFAR-10, head alone": train(*common, *init, "--model.freeze", "encoder"),
        "1 epoch of CIFAR-10 from scratch": train(*common, "--model.init_from", "null"),
    }
    print(table(results, ("test_accuracy", "test_loss", "images_seen", "train_seconds")))


if __name__ == "__main__":
    with exit_on_input_error():
        main()
