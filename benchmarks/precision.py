"""Is bf16 worth it on this CPU? Images per second of the CPU recipes in 32 bit and in bf16, by turns. Prints a table.

python -m benchmarks.precision
ONEDNN_MAX_CPU_ISA=AVX2 python -m benchmarks.precision --steps 5        as on a CPU without bf16; far slower
"""

import argparse
import statistics

from benchmarks.training import positive, table, train
from src.errors import exit_on_input_error

CONFIGS = ("mnist", "mnist_best", "cifar10_cpu")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=positive, default=60, help="of one training")
    parser.add_argument("--rounds", type=positive, default=3, help="trainings of each kind")
    parser.add_argument("--configs", nargs="+", choices=CONFIGS, default=CONFIGS)
    options, flags = parser.parse_known_args()
    short = [
        "--trainer.max_epochs",
        "1",
        "--trainer.limit_val_batches",
        "0",
        "--trainer.limit_test_batches",
        "0",
    ]
    short += [
        "--trainer.limit_train_batches",
        str(options.steps),
        "--trainer.accelerator",
        "cpu",
        *flags,
    ]
    results = {}
    for name in options.configs:
        speeds = {"32-true": [], "bf16-mixed": []}
        for _ in range(options.rounds):
            for precision, found in speeds.items():
                run = train(
                    "--config", f"configs/{name}.yaml", "--trainer.precision", precision, *short
                )
                found.append(run["images_per_second"])
        ratios = [bf16 / full for full, bf16 in zip(*speeds.values(), strict=True)]
        medians = {
            f"{precision}_images/s": statistics.median(found) for precision, found in speeds.items()
        }
        results[name] = medians | {
            "ratio": statistics.median(ratios),
            "ratios": ", ".join(f"{r:.2f}" for r in ratios),
        }
    print(table(results, tuple(results[options.configs[0]])))


if __name__ == "__main__":
    with exit_on_input_error():
        main()
