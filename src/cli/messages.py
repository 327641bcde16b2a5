"""What `train.py` says: before the training, after it, and of jsonargparse's explanations one line."""

import logging
import re
import shlex
import warnings
from pathlib import Path

from src.training.build import Training

UNCONCERNED = (  # advice that does not concern the user of this program
    *(
        ".*does not have many workers.*",
        ".*dataloader is not resumable.*",
        ".*isinstance.treespec.*",
    ),
    *(
        ".*Checkpoint directory.*",
        ".*in eval mode.*",
        ".*callbacks used to create the checkpoint.*",
    ),
    *(".*smaller than the logging interval.*", ".*across ranks is zero.*"),
    ".*Encountered `nan` values.*",
)


def quiet() -> None:
    """Silence what Lightning says of itself."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("pytorch_lightning.profilers").setLevel(
        logging.INFO
    )  # whoever asks for one wants its report
    for message in UNCONCERNED:
        warnings.filterwarnings("ignore", message)


def one_line(message: str) -> str:
    """jsonargparse's own words, which can fill a screen: the whole key, and the beginning of what is wrong with it."""
    text = " ".join(message.split())
    keys = list(dict.fromkeys(re.findall(r'Parser key "([^"]+)": ', text)))
    text = re.split(r'Parser key "[^"]+": ', text)[-1].removesuffix(".")
    if option := re.search(
        r"Errors: - ([\w.]+): (.*?); see python train.py --help", text
    ):  # of a model or dataset
        keys, text = [*keys, option[1]], option[2]
    return f"{'.'.join([*keys, ''])[:-1]}{': ' if keys else ''}{text[:300]}; see python train.py --help"


def announce(training: Training) -> None:
    """Say what is about to be trained, on what, and where it goes."""
    trainer, model = training.trainer, training.model
    if not trainer.is_global_zero:
        return
    parameters = sum(p.numel() for p in model.net.parameters())
    images = ", ".join(
        f"{len(images):,} {split}" for split, images in training.data.sets.items() if images
    )
    what = f"{'Resuming' if training.checkpoint else 'Training'} {type(model).__name__} ({parameters:,} parameters)"
    where = f"{trainer.accelerator.name()}, {trainer.precision}; run {training.run}"
    print(f"{what} on {training.data.info.name}, {images} images; {where}", flush=True)


def report(training: Training, results: dict | None, runs: Path) -> None:
    """Say what the training gave, and what to type next."""
    if results is None:  # on all devices but the first
        return
    run, epochs, test = (
        shlex.quote(str(training.run)),
        results["epochs"],
        training.data.sets["test"],
    )
    speed = f"{results['train_seconds']:,.0f} s ({results['images_per_second']:,.0f} images/s)"
    print(
        f"\nTrained {epochs} epoch{'s' * (epochs != 1)}, {results['images_seen']:,} images in {speed}"
    )
    if results["test_accuracy"] is not None:
        tested = results["test_images"]
        part = (
            f"; only {tested:,} of {len(test):,} images, maybe not of all classes"
            if tested < len(test)
            else ""
        )
        figures = (
            f"Test accuracy {results['test_accuracy']:.4f}, test loss {results['test_loss']:.4f}"
        )
        print(f"{figures} ({results['checkpoint']}, epoch {results['checkpoint_epoch']}{part})")
    elif results["val_accuracy"] is not None:
        print(f"Validation accuracy {results['val_accuracy']:.4f}; nothing was tested")
    else:
        print("No accuracy: nothing was held out for validation, and nothing tested")
    page = "report.html, " if training.pictures else ""
    print(
        f"Written to {training.run}/ ({page}results.json, metrics.csv, config.yaml, checkpoints/)\n\n"
        f"  python classify.py IMAGE --ckpt {run}        classify your own image\n"
        f"  tensorboard --logdir {shlex.quote(str(runs))}        see the curves\n"
        f"  python train.py --resume {run} --trainer.max_epochs {2 * epochs}        train longer",
        flush=True,
    )
