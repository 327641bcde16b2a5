"""Test the chosen checkpoint once after training; write results.json and predictions.csv."""

from dataclasses import asdict
from typing import Any

import torch

from src import lightning_loop
from src.config import ViTConfig
from src.data.image_data import ImageDataModule
from src.runs.checkpoint import Checkpoint
from src.runs.results import write_results
from src.training.build import Run
from src.training.classifier import Classifier
from src.training.predictions import CollectPredictions, Predictions, write_predictions
from src.training.trainer import device_name, gpu_memory
from src.transforms.augment import Augmentation


def test(run: Run) -> dict[str, Any] | None:
    """Test the chosen checkpoint; write results.json and, with test images, predictions.csv.

    Returns:
        The content of results.json; None on all ranks except 0.
    """
    trainer, model, data = run.trainer, run.model, run.data
    chosen = Checkpoint.open(run.checkpoints.chosen_path)
    model.load_state_dict(chosen.content["state_dict"])
    model.temperature = chosen.temperature
    tested: dict[str, Any] = {}
    predictions: Predictions = {}
    if images := data.sets["test"]:
        collect = CollectPredictions()
        lightning_loop.set_callbacks(trainer, [collect, *lightning_loop.callbacks(trainer)])
        tested = dict((trainer.test(model, datamodule=data, verbose=False) or [{}])[0])
        predictions = collect.gather(trainer, data.share("test"))
    if not trainer.is_global_zero:
        return None
    results = _results(run, chosen, tested, len(predictions))
    write_results(run.folder, results)
    if images and predictions:
        write_predictions(run.folder, images, data.info.classes, predictions)
    if run.tensorboard:
        keys = ("val_accuracy", "test_accuracy", "test_loss")
        final = {f"summary/{key}": results[key] for key in keys if results[key] is not None}
        varied = _varied(model, data, results["epochs"])
        run.tensorboard.log_hyperparams(varied, final, trainer.global_step)
    for logger in trainer.loggers:
        logger.finalize("success")
    return results


def _varied(model: Classifier, data: ImageDataModule, epochs: int) -> dict[str, Any]:
    """Return the commonly tuned hyperparameters for TensorBoard's hparams table."""
    config, network = model.config, model.network_config
    sizes = {}
    if isinstance(network, ViTConfig):
        sizes = {"width": network.width, "depth": network.depth}
    settings = asdict(data.augmentation).items()
    used = {key: value for key, value in settings if value != getattr(Augmentation, key)}
    shown = [key if value is True else f"{key} {value}" for key, value in used.items()]
    return {
        "lr": config.lr,
        "weight_decay": config.weight_decay,
        **sizes,
        "batch_size": data.batch_size,
        "augment": ", ".join(shown) or "none",
        "epochs": epochs,
    }


def _results(
    run: Run, chosen: Checkpoint, tested: dict[str, Any], test_images: int
) -> dict[str, Any]:
    trainer, model, data, checkpoints = run.trainer, run.model, run.data, run.checkpoints
    best = chosen.content["callbacks"]["SaveCheckpoints"]["best"]
    train_set = data.sets["train"]
    assert train_set
    batch = min(data.batch_size, len(train_set) // trainer.world_size)
    images_seen = lightning_loop.total_batches(trainer) * batch * trainer.world_size
    return {
        "dataset": data.info.name,
        "model": type(model).__name__,
        "parameters": sum(p.numel() for p in model.net.parameters()),
        "epochs": lightning_loop.epochs_done(trainer),
        "images_seen": images_seen,
        "seed": data.seed,
        "val_accuracy": float(f"{best['val_accuracy']:.6g}") if best else None,
        "val_balanced_accuracy": best.get("val_balanced_accuracy"),
        "test_accuracy": tested.get("test_accuracy"),
        "test_balanced_accuracy": tested.get("test_balanced_accuracy"),
        "test_loss": tested.get("test_loss"),
        "test_images": test_images,
        "temperature": round(model.temperature, 4),
        "checkpoint": checkpoints.chosen_path.name,
        "checkpoint_epoch": chosen.epoch + 1,
        "train_seconds": round(checkpoints.train_seconds, 2),
        "images_per_second": round(images_seen / checkpoints.train_seconds, 1),
        "device": device_name(trainer),
        "gpu_gib": gpu_memory(trainer),
        "precision": trainer.precision,
        "torch": torch.__version__,
        "classes": _classes(data, model.class_scores if tested else best.get("class_scores", {})),
    }


def _classes(data: ImageDataModule, scores: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Return the scores of the classes that have test images, or else validation images."""
    rows = [dict(zip(scores, row, strict=True)) for row in zip(*scores.values(), strict=True)]
    return [
        {"class": name} | {key: round(value, 6) for key, value in row.items()}
        for name, row in zip(data.info.classes, rows, strict=False)
        if row["images"]
    ]
