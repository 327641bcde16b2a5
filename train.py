"""Train a Vision Transformer from scratch on small images.

python train.py                                             MNIST
python train.py --config configs/digits.yaml                no download, under a minute
python train.py --model.depth 4 --trainer.max_epochs 3      any key of the config can be a flag
python train.py --resume                                    go on with the newest run of that name
python train.py --help                                      all keys
"""

import os
import sys

from src.errors import exit_on_input_error

# Before PyTorch is imported: waiting threads spin for microseconds, then sleep (measured in benchmarks/ablation.md).
os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def main(args: list[str]) -> None:
    # Not at the top: these imports take seconds, in which Ctrl-C must already end well.
    from src.cli.start import import_torchmetrics

    import_torchmetrics()
    from src.cli.messages import announce, quiet, report
    from src.cli.parser import parse
    from src.training.build import build
    from src.training.test import test

    quiet()
    settings = parse(args)
    training = build(settings)
    announce(training)
    trainer, checkpoint = training.trainer, training.checkpoint
    trainer.fit(training.model, datamodule=training.data, ckpt_path=checkpoint, weights_only=True)
    if not trainer.fast_dev_run:
        report(training, test(training), settings.runs)


if __name__ == "__main__":
    with exit_on_input_error():
        main(sys.argv[1:])
