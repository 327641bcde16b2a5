"""Write the weights of a run to src/weights in half precision, and measure what rounding costs.

    python -m benchmarks.bundle data/runs/mnist_hybrid mnist
    python -m benchmarks.bundle data/runs/cifar100_cpu cifar100

Prints the test accuracy before and after rounding.
"""

from pathlib import Path

import torch

from benchmarks.tables import make_parser
from src.data.splits import open_split
from src.errors import InputError, exit_on_input_error
from src.inference.predictor import BATCH, Predictor
from src.runs.atomic import write_atomically
from src.runs.directory import find_checkpoint
from src.runs.weights_file import pack


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("run", help="run directory or checkpoint")
    parser.add_argument("name", help="name of the weights")
    parser.add_argument("--data", default="data", help="dataset folder")
    options = parser.parse_args()
    source = find_checkpoint(options.run)
    target = Path("src", "weights", f"{options.name}.safetensors")
    before = Predictor(source, "cpu")
    content = before.checkpoint.content
    parameters = content["hyper_parameters"]
    parameters["dataset"]["root"] = "data"  # omit the path on this machine
    description = {
        "format": content["format"],
        "hyper_parameters": parameters,
        "temperature": before.checkpoint.temperature,
    }
    write_atomically(target, pack(before.checkpoint.weights, description))
    for path, predictor in ((source, before), (target, Predictor(target, "cpu"))):
        print(f"{path}: test accuracy {accuracy(predictor, options.data):.4f}")


def accuracy(predictor: Predictor, root: str) -> float:
    """Return the accuracy on the test images of the network's dataset."""
    images = open_split(predictor.dataset, "test", root=root)
    if not images:
        raise InputError(f"{predictor.dataset.name} has no test images; pass another run")
    correct = 0
    for indices in torch.arange(len(images)).split(BATCH):
        pixels, labels = images.__getitems__(indices)
        correct += int((predictor.probabilities(pixels).argmax(dim=1) == labels).sum())
    return correct / len(images)


if __name__ == "__main__":
    with exit_on_input_error():
        main()
