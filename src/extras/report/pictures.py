"""Write pictures of a training run to TensorBoard, and write its report.

Nothing here draws random numbers or changes the network, so a run is bit-identical with and without
pictures. matplotlib is imported when the first picture is drawn, because the import takes a second
and would slow down `train.py --help`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor, nn

from src.data.image_data import ImageDataModule
from src.data.image_set import ImageSet
from src.errors import InputError
from src.extras.report.evaluation import Evaluation, Predictions, evaluate, summarize
from src.models.ensemble import Ensemble
from src.models.rollout import rollout
from src.models.vit import VisionTransformer
from src.transforms.patchify import normalize, unpatchify

IMAGES, COLUMNS = 16, 4  # images per picture and per row; more would be too small in TensorBoard

Figures = dict[str, Any]  # matplotlib figures, keyed by TensorBoard tag


class Pictures(Checkpoint):
    """Write pictures of the first batch, validation results and weights, and write the report.

    The first batch is written at the start of training, and all other pictures at the end.

    This class derives from `Checkpoint` only to make Lightning call it after the module has
    measured its speed.
    """

    def __init__(self) -> None:
        self.predictions: Predictions = []  # validation or test results to draw

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.predictions = []  # discard the results of Lightning's sanity check

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 0 and batch_idx == 0:
            self._draw(trainer, 0, lambda: draw_batch(trainer.datamodule, batch))

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        self.predictions = []

    def on_validation_batch_end(self, trainer: Any, module: Any, outputs: Any, *batch: Any) -> None:
        # The temperature is fitted after the validation.
        temperature = module.temperature if trainer.testing else 1.0
        probabilities = (outputs.float() / temperature).softmax(dim=1)
        # Kept on the device to avoid a sync.
        self.predictions.append(summarize(probabilities, temperature))

    def on_train_end(self, trainer: Any, module: Any) -> None:
        data, network = trainer.datamodule, module.eval_net.eval()

        def draw() -> Figures:
            figures = draw_weights(network)
            if self.predictions:
                figures |= draw_validation(data, self.predictions) | draw_attention(data, network)
            return figures

        step = max(0, trainer.global_step - 1)  # the step that Lightning logs metrics with
        self._draw(trainer, step, draw)
        self.predictions = []

    on_test_start = on_validation_start  # type: ignore[assignment]
    on_test_batch_end = on_validation_batch_end  # type: ignore[assignment]

    def write_report(self, run: Path, data: ImageDataModule) -> Path:
        """Write the report of a finished run and return its path.

        The report uses the predictions of the final test. If there are none, or if they are spread
        over several processes, the images are classified again.
        """
        from src.extras.report.report import write_report

        images, trainer = data.sets["test"], data.trainer
        if images and self.predictions and trainer and trainer.world_size == 1:
            evaluation = Evaluation("test", images, data.info.classes, self.predictions)
            return write_report(run, evaluation)
        return write_report(run, evaluate(run))

    def _draw(self, trainer: Any, step: int, draw: Callable[[], Figures]) -> None:
        """Call `draw` in the first process, and write the figures."""
        from src.extras.report.figures import plain_text

        if trainer.is_global_zero:
            with plain_text():
                for tag, figure in draw().items():
                    trainer.logger.experiment.add_figure(tag, figure, step)


def validation_images(data: ImageDataModule) -> ImageSet:
    """Return the validation images of this process, in the order of evaluation."""
    images = data.sets["val"]
    assert images
    return images.subset(torch.tensor(list(data.share("val"))))


def draw_batch(data: ImageDataModule, batch: tuple[Tensor, ...]) -> Figures:
    """Draw a training batch as the network sees it (augmented), with the main class of each image.

    Args:
        data: the data module that served the batch.
        batch: normalized images or patches, and labels [B] or class probabilities [B, K].
    """
    from src.extras.report import figures

    inputs, targets = (part[:IMAGES].detach().float().cpu() for part in batch[:2])
    info = data.info
    if data.patch_size:
        inputs = unpatchify(inputs, data.patch_size, info.image_size, info.channels)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (info.mean, info.std))
    pixels = ((inputs * std + mean) * 255).round().clamp(0, 255).byte()
    labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
    names = [figures.shorten(info.classes[int(label)]) for label in labels]
    return {"training/first_batch": figures.tiles(pixels, names, COLUMNS)}


def draw_validation(data: ImageDataModule, predictions: Predictions) -> Figures:
    """Draw the confusion matrix and the most confident mistakes."""
    from src.extras.report import figures

    evaluation = Evaluation("validation", validation_images(data), data.info.classes, predictions)
    drawn = {"validation/confusion_matrix": figures.confusion(evaluation)}
    if not evaluation.correct.all():
        mistakes = figures.confident_mistakes(evaluation, IMAGES, COLUMNS)
        drawn["validation/confident_mistakes"] = mistakes
    return drawn


def draw_attention(data: ImageDataModule, network: nn.Module) -> Figures:
    """Draw attention rollout for a few validation images, unless the network has no attention."""
    from src.extras.report import figures

    images, info = validation_images(data), data.info
    pixels, labels = images.__getitems__(torch.linspace(0, len(images) - 1, IMAGES).long().unique())
    names = [figures.shorten(info.classes[label]) for label in labels]
    device = next(network.parameters()).device
    inputs = normalize(pixels.to(device), info.mean, info.std)
    try:
        maps = rollout(network, inputs).cpu()
    except InputError:  # convolutional networks have no attention
        return {}
    return {"validation/attention": figures.attention(pixels, maps, names, COLUMNS)}


def draw_weights(network: nn.Module) -> Figures:
    """Draw the weights of a network, or of the first network in an ensemble."""
    from src.extras.report import figures

    first = network.networks[0] if isinstance(network, Ensemble) else network
    drawn = {"weights/filters": figures.filters(first)}
    if isinstance(first, VisionTransformer):
        drawn["weights/position_similarity"] = figures.position_similarity(first)
    return drawn
