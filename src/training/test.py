"""The one test after the training, and what results.json says of it."""

from dataclasses import asdict

import torch

from src import lightning_loop as loop
from src.data.modules import ImageDataModule
from src.extras.report.evaluation import Evaluation
from src.extras.report.report import evaluate, write_report
from src.models.vit import SIZES
from src.runs.checkpoint import load_checkpoint
from src.runs.results import read_metrics, write_results
from src.training.build import Training
from src.training.classifier import Classifier
from src.training.trainer import device_name, gpu_memory
from src.transforms.augment import Augmentation


def test(training: Training) -> dict | None:
    """Test the chosen checkpoint once and write results.json -> its content; None on all devices but the first."""
    trainer, model, data, run = training.trainer, training.model, training.data, training.run
    chosen = load_checkpoint(training.checkpoints.chosen_path)
    model.load_state_dict(chosen["state_dict"])
    tested = {}
    if data.sets["test"]:
        tested = (trainer.test(model, datamodule=data, verbose=False) or [{}])[0]
    if not trainer.is_global_zero:
        return None
    results = _results(training, chosen["epoch"], tested)
    write_results(run, results)
    if training.tensorboard:
        final = {
            f"summary/{key}": results[key] for key in ("val_accuracy", "test_accuracy", "test_loss")
        }
        final = {key: value for key, value in final.items() if value is not None}
        training.tensorboard.log_hyperparams(
            _varied(model, data, results["epochs"]), final, trainer.global_step
        )
    for logger in trainer.loggers:
        logger.finalize("success")
    if training.pictures:
        classes, answers = list(data.info.classes), training.pictures.tested
        write_report(
            run,
            Evaluation("test", data.sets["test"], classes, answers) if tested else evaluate(run),
        )
    return results


def _varied(model: Classifier, data: ImageDataModule, epochs: int) -> dict:
    """What people vary, for TensorBoard's table of hyperparameters; all others stand in its texts."""
    hp = model.hparams
    sizes = {}
    if hp.network["kind"] == "vit":
        sizes = {
            key: hp.network[key] or SIZES[hp.network["size"]][key] for key in ("width", "depth")
        }
    on = {
        key: value
        for key, value in asdict(data.augmentation).items()
        if value != getattr(Augmentation, key)
    }
    return {
        "lr": hp.lr,
        "weight_decay": hp.weight_decay,
        **sizes,
        "batch_size": data.batch_size,
        "augment": ", ".join(
            key if value is True else f"{key} {value}" for key, value in on.items()
        )
        or "none",
        "epochs": epochs,
    }


def _results(training: Training, chosen_epoch: int, tested: dict) -> dict:
    trainer, model, data, checkpoints = (
        training.trainer,
        training.model,
        training.data,
        training.checkpoints,
    )
    rows = {int(row["epoch"]): row for row in read_metrics(training.run)}
    val_accuracy = rows.get(chosen_epoch, {}).get("val_accuracy")
    batch = min(data.batch_size, len(data.sets["train"]) // trainer.world_size)
    images_seen = loop.total_batches(trainer) * batch * trainer.world_size
    test_images = (
        sum(trainer.num_test_batches) * data.eval_batch_size * trainer.world_size if tested else 0
    )
    return {
        "dataset": data.info.name,
        "model": type(model).__name__,
        "parameters": sum(p.numel() for p in model.net.parameters()),
        "epochs": loop.epochs_done(trainer),
        "images_seen": images_seen,
        "seed": data.seed,
        "val_accuracy": float(val_accuracy) if val_accuracy else None,
        "test_accuracy": tested.get("test_accuracy"),
        "test_loss": tested.get("test_loss"),
        "test_images": min(test_images, len(data.sets["test"] or [])),
        "checkpoint": checkpoints.chosen_path.name,
        "checkpoint_epoch": chosen_epoch + 1,
        "train_seconds": round(checkpoints.train_seconds, 2),
        "images_per_second": round(images_seen / checkpoints.train_seconds, 1),
        "device": device_name(trainer),
        "gpu_gib": gpu_memory(trainer),
        "precision": trainer.precision,
        "torch": torch.__version__,
    }
