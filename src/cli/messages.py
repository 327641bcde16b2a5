"""Messages that `train.py` prints before and after training."""

import logging
import shlex
import warnings
from pathlib import Path
from typing import Any

from src import lightning_loop
from src.data.modules import ImageDataModule
from src.errors import command, printable
from src.training.build import Run

RECOMMENDED = "loss"  # value of data.balance; docs/ablation.md compares them
MAX_CLASSES = 10  # maximum number of classes to list after training

IRRELEVANT_WARNINGS = (
    ".*does not have many workers.*",
    ".*dataloader is not resumable.*",
    ".*isinstance.treespec.*",
    ".*Checkpoint directory.*",
    ".*Previous log files in this directory will be deleted.*",
    ".*in eval mode.*",
    ".*callbacks used to create the checkpoint.*",
    ".*smaller than the logging interval.*",
    ".*across ranks is zero.*",
    ".*Encountered `nan` values.*",
)


def silence_lightning() -> None:
    """Hide Lightning's log messages and irrelevant warnings."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)
    for message in IRRELEVANT_WARNINGS:
        warnings.filterwarnings("ignore", message)


def announce(run: Run) -> None:
    """Print the model, the dataset, the device and the run directory."""
    trainer, model = run.trainer, run.model
    if not trainer.is_global_zero:
        return
    if run.data.is_imbalanced:
        print(_imbalance(run.data), flush=True)
    verb = "Resuming" if run.resumed else "Training"
    parameters = sum(p.numel() for p in model.net.parameters())
    where = "dry run" if lightning_loop.is_dry_run(trainer) else f"run {run.folder}"
    sizes = [f"{len(images):,} {split}" for split, images in run.data.sets.items() if images]
    print(
        f"{verb} {type(model).__name__} ({parameters:,} parameters) on {run.data.info.name}, "
        f"{', '.join(sizes)} images; {trainer.accelerator.name()}, {trainer.precision}; {where}",
        flush=True,
    )


def print_results(run: Run, results: dict[str, Any], runs: Path, report: bool) -> None:
    """Print the results of a run and suggest further commands.

    Args:
        run: the finished run.
        results: content of results.json.
        runs: parent directory of all runs.
        report: whether report.html was written.
    """
    epochs, folder = results["epochs"], shlex.quote(str(run.folder))
    plural = "" if epochs == 1 else "s"
    speed = f"{results['train_seconds']:,.0f} s ({results['images_per_second']:,.0f} images/s)"
    print(f"\nTrained {epochs} epoch{plural}, {results['images_seen']:,} images in {speed}")
    print(_accuracy(run, results))
    if run.data.is_imbalanced and results["classes"]:
        print(_class_table(results))
    page = "report.html, " if report else ""
    resume = f"{command('train.py')} --resume {folder} --trainer.max_epochs {2 * epochs}"
    rows = "predictions.csv, " if results["test_images"] else ""
    files = f"{page}results.json, {rows}metrics.csv, config.yaml, checkpoints/"
    print(
        f"Written to {run.folder}/ ({files})\n\n"
        f"  {command('classify.py')} IMAGE --ckpt {folder}        classify your own image\n"
        f"  tensorboard --logdir {shlex.quote(str(runs))}        see the curves\n"
        f"  {resume}        train longer",
        flush=True,
    )


def _class_table(results: dict[str, Any]) -> str:
    """Return the balanced accuracy, and the scores of the classes with the lowest recall."""
    rows = results["classes"]
    split = "val" if results["test_balanced_accuracy"] is None else "test"
    balanced = results[f"{split}_balanced_accuracy"]
    names = [printable(row["class"]) for row in rows]
    width = max(map(len, names))
    lines = [
        f"{name:<{width}}  recall {row['recall']:.4f}  precision {row['precision']:.4f}  "
        f"F1 {row['f1']:.4f}  {row['images']:,} images"
        for name, row in sorted(zip(names, rows, strict=True), key=lambda pair: pair[1]["recall"])
    ]
    if len(rows) > MAX_CLASSES:
        lines[MAX_CLASSES:] = [f"... (all {len(rows)} classes are in results.json)"]
    return "\n".join([f"Balanced accuracy {balanced:.4f} (mean recall of the classes)", *lines])


def _accuracy(run: Run, results: dict[str, Any]) -> str:
    if results["test_accuracy"] is None:
        if results["val_accuracy"] is None:
            return "No accuracy: there are no validation or test images"
        return f"Validation accuracy {results['val_accuracy']:.4f}; there are no test images"
    tested, total = results["test_images"], len(run.data.sets["test"] or ())
    part = ""
    if tested < total:
        part = f"; only the first {tested:,} of {total:,} images"
    return (
        f"Test accuracy {results['test_accuracy']:.4f}, test loss {results['test_loss']:.4f} "
        f"({results['checkpoint']}, epoch {results['checkpoint_epoch']}{part})"
    )


def _imbalance(data: ImageDataModule) -> str:
    """Describe the class imbalance, how best.ckpt is selected, and data.balance."""
    sizes = data.class_sizes
    most, least = (
        f"{printable(data.info.classes[label])} {sizes[label]:,}"
        for label in (sizes.argmax(), sizes.argmin())
    )
    remedy = f"data.balance is {data.balance}"
    if data.balance == "none":
        remedy = f"--data.balance {RECOMMENDED} improves the accuracy on small classes"
    selected = "best.ckpt is selected by balanced accuracy; " if data.sets["val"] else ""
    return f"note: class imbalance (training images: {most}, {least}); {selected}{remedy}"
