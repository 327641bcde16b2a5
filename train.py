"""Train a Vision Transformer from scratch on small images.

python train.py                                             MNIST
python train.py --config configs/digits.yaml                no download, under a minute
python train.py --model.depth 4 --trainer.max_epochs 3      any key of the config can be a flag
python train.py --resume                                    go on with the newest run of that name
python train.py --help                                      all keys
"""

import sys

from src.errors import exit_on_input_error


def main(args: list[str]) -> None:
    from src.cli import CLI, quiet  # not at the top: it takes seconds, in which Ctrl-C must already end well

    quiet()
    cli = CLI(args)  # parse and build
    cli.announce()
    cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.checkpoint, weights_only=True)
    cli.test_and_report()


if __name__ == "__main__":
    with exit_on_input_error():
        main(sys.argv[1:])
