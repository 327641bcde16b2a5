"""Train a Vision Transformer from scratch on small images.

python train.py                                             MNIST
python train.py --config configs/digits.yaml                no download
python train.py --model.depth 4 --trainer.max_epochs 3      flags override any key of the config
python train.py --resume                                    resume the newest run of mnist
python train.py --help                                      list all keys
"""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from src.errors import exit_on_input_error

if TYPE_CHECKING:
    from src.extras.report.pictures import Pictures
    from src.training.build import Settings
    from src.training.classifier import ViT


def main(args: list[str]) -> None:
    # Imported late: these take seconds, and Ctrl-C must work meanwhile.
    from src.cli.fast_import import import_torchmetrics

    import_torchmetrics()
    from src.cli.messages import announce, print_results, silence_lightning
    from src.cli.parser import parse
    from src.training.build import build
    from src.training.test import test

    silence_lightning()
    settings = parse(args)
    pictures, initialize = find_extras(settings)
    run = build(settings, [pictures] if pictures else [], initialize)
    announce(run)
    run.fit()
    if settings.trainer["fast_dev_run"]:
        return
    results = test(run)
    if results is None:  # this process is not rank 0
        return
    if pictures:
        pictures.write_report(run.folder, run.data)
    print_results(run, results, settings.runs, report=pictures is not None)


def find_extras(
    settings: "Settings",
) -> tuple["Pictures | None", Callable[["ViT"], str] | None]:
    """Return the callback for `--pictures` and the function that loads `--model.init_from`.

    Both are None if src/extras is missing; the core does not depend on this folder.
    """
    try:
        from src.extras.report.pictures import Pictures
        from src.extras.weights.load_encoder import initialize
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("src.extras"):
            raise
        if settings.pictures:
            print("note: src/extras is missing; skipping pictures and report", file=sys.stderr)
        return None, None
    options = settings.trainer
    draws = settings.pictures and not options["fast_dev_run"] and options["logger"] is not False
    return Pictures() if draws else None, initialize


if __name__ == "__main__":
    # Set this before PyTorch is imported, so that idle threads spin only briefly before they sleep
    # (docs/ablation.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    with exit_on_input_error():
        main(sys.argv[1:])
