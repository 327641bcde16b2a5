"""What TensorBoard shows beside the curves: the config, the layers, and pictures of what is learned.

Nothing here draws a random number or changes the network: a run is the same, bit for bit, with pictures and without.
matplotlib is imported with the first picture, so that `train.py --help` does not wait for it.
"""

import time

import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor, nn

from src.data.modules import ImageDataModule
from src.extras.report.evaluation import Answers, Evaluation
from src.models.ensemble import Ensemble
from src.models.rollout import rollout
from src.models.vit import VisionTransformer
from src.transforms.patchify import normalize, unpatchify

SHARE = (
    0.02  # of the training time, for pictures; the first batch and the end are drawn in any case
)
IMAGES, COLUMNS = 16, 4  # of a picture; more would be too small in TensorBoard
WATCHED = IMAGES // 2  # validation images whose attention is shown, each beside itself


class Pictures(Checkpoint):
    """Writes texts and the first batch at the start, pictures of validation after epochs 1, 2, 4, 8, ... and the last,
    and pictures of the weights at the end. Keeps the answers of the test, for the report.

    A `Checkpoint` only so that Lightning calls it at the end of an epoch after the module has measured its speed.

    Args:
        config: the complete configuration, as config.yaml keeps it.
    """

    def __init__(self, config: str):
        self.config = config
        self.answers: Answers | None = None  # of the last validation, as long as they are not drawn
        self.attention: tuple[Tensor, Tensor] | None = None  # of that validation, see `watch`
        self.validated_step = 0
        self.tested: Answers | None = None
        self.spent = self.longest = 0.0  # seconds for all pictures, and for those of one validation

    def on_train_start(self, trainer, module) -> None:
        self.started = time.monotonic()
        if trainer.is_global_zero and trainer.global_step == 0:
            writer = trainer.logger.experiment
            writer.add_text("config", indented(self.config), 0)
            writer.add_text("layers", layer_table(module.net), 0)

    def on_train_batch_start(
        self, trainer, module, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        if trainer.is_global_zero and trainer.global_step == 0 and batch_idx == 0:
            self._draw(trainer, 0, of_batch, trainer.datamodule, batch)

    def on_validation_start(self, trainer, module) -> None:
        self.answers = Answers() if trainer.is_global_zero and not trainer.sanity_checking else None

    def on_validation_batch_end(
        self, trainer, module, outputs, batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.answers:
            self.answers.add(outputs.float().softmax(dim=1))

    def on_validation_end(self, trainer, module) -> None:
        self.validated_step = logged_step(trainer)
        if self.answers:  # the network is in eval mode now
            self.attention = watch(module.eval_net, trainer.datamodule, module.device)

    def on_train_epoch_end(self, trainer, module) -> None:
        epoch = trainer.current_epoch + 1
        affordable = SHARE * (time.monotonic() - self.started) >= self.spent + self.longest
        if epoch & (epoch - 1) == 0 and affordable:
            self._draw_validation(trainer)

    def on_train_end(self, trainer, module) -> None:
        self._draw_validation(trainer)
        if trainer.is_global_zero:
            self._draw(trainer, logged_step(trainer), of_weights, module.eval_net)

    def on_test_start(self, trainer, module) -> None:
        self.tested = Answers()

    def on_test_batch_end(
        self, trainer, module, outputs, batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.tested.add(outputs.float().softmax(dim=1))

    def _draw_validation(self, trainer) -> None:
        if self.answers:
            what = trainer.datamodule, self.answers, self.attention
            seconds = self._draw(trainer, self.validated_step, of_validation, *what)
            self.longest = max(self.longest, seconds)
            self.answers = None

    def _draw(self, trainer, step: int, pictures, *what) -> float:
        """Write what `pictures(*what)` makes -> the seconds it took."""
        before = time.monotonic()
        for tag, figure in pictures(*what).items():
            trainer.logger.experiment.add_figure(tag, figure, step)
        seconds = time.monotonic() - before
        self.spent += seconds
        return seconds


def logged_step(trainer) -> int:
    """The step at which Lightning logs what is measured now: that of the last batch, from 0."""
    return max(0, trainer.global_step - 1)


@torch.no_grad()
def watch(
    network: nn.Module, data: ImageDataModule, device: torch.device
) -> tuple[Tensor, Tensor] | None:
    """A few validation images, always the same: their indices [n], and where the network looks, float32 [n, S, S].

    None where the network has no attention.
    """
    if not isinstance(
        network.networks[0] if isinstance(network, Ensemble) else network, VisionTransformer
    ):
        return None
    images = data.sets["val"]
    n = min(WATCHED, len(images))
    indices = torch.arange(n) * len(images) // n
    inputs = normalize(images.__getitems__(indices)[0].to(device), data.info.mean, data.info.std)
    return indices, rollout(network, inputs)


# Pictures: matplotlib figures by their tags ---------------------------------------------------------------------------


def of_batch(data: ImageDataModule, batch: tuple[Tensor, Tensor]) -> dict:
    """The images that the network reads, but no longer in patches nor normalized, with their targets."""
    from src.extras.report import figures

    inputs, targets = (part[:IMAGES].detach().float().cpu() for part in batch)
    info = data.info
    if data.patch_size:
        inputs = unpatchify(inputs, data.patch_size, info.image_size, info.channels)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (info.mean, info.std))
    pixels = ((inputs * std + mean) * 255).round().clamp(0, 255).byte()
    names = [figures.shown(name, 12) for name in info.classes]
    if targets.ndim == 1:
        captions = [names[int(label)] for label in targets]
    else:  # soft targets, of MixUp and CutMix
        shares, labels = (top.tolist() for top in targets.topk(2))
        captions = [
            f"{a:.0%} {names[i]}\n{b:.0%} {names[j]}" if b >= 0.005 else names[i]
            for (a, b), (i, j) in zip(shares, labels, strict=True)
        ]
    return {"training/first_batch": figures.tiles(pixels, captions, COLUMNS)}


def of_validation(
    data: ImageDataModule, answers: Answers, attention: tuple[Tensor, Tensor] | None
) -> dict:
    """What was answered about the validation images, and what `watch` saw."""
    from src.extras.report import figures

    found = Evaluation("val", data.sets["val"], list(data.info.classes), answers)
    pictures = {"validation/confusion_matrix": figures.confusion(found)}
    if not found.right.all():
        pictures["validation/surest_mistakes"] = figures.surest_mistakes(found, IMAGES, COLUMNS)
    if attention:
        indices, maps = attention
        images, labels = found.images.__getitems__(indices)
        names = [figures.shown(found.classes[label], 12) for label in labels.tolist()]
        pictures["validation/attention"] = figures.attention(images, maps.cpu(), names, COLUMNS)
    return pictures


def of_weights(network: nn.Module) -> dict:
    """Of an ensemble, those of the first network."""
    from src.extras.report import figures

    first = network.networks[0] if isinstance(network, Ensemble) else network
    pictures = {"weights/filters": figures.filters(first)}
    if isinstance(first, VisionTransformer):
        pictures["weights/position_similarity"] = figures.position_similarity(first)
    return pictures


# Texts ----------------------------------------------------------------------------------------------------------------


def indented(text: str) -> str:
    """Markdown of a text that is to be shown as it is."""
    return "\n".join("    " + line for line in text.splitlines())


def layer_table(network: nn.Module) -> str:
    """Markdown of every layer and its parameters; of equal ones in a row, such as blocks, only the first."""
    rows = ["| layer | what it is | parameters |", "|---|---|---:|"]
    rows += [f"| `{name}` | {what} | {count:,} |" for name, what, count in _layers(network, "")]
    return "\n".join([*rows, f"| | all | {sum(p.numel() for p in network.parameters()):,} |"])


def _layers(module: nn.Module, name: str) -> list[tuple[str, str, int]]:
    prefix = f"{name}." if name else ""
    children = list(module.named_children())
    if name and not children:
        return [(name, str(module), sum(p.numel() for p in module.parameters()))]
    if (
        len(children) > 1
        and isinstance(module, nn.ModuleList)
        and len({str(child) for _, child in children}) == 1
    ):
        count = sum(p.numel() for p in module.parameters())
        return [
            (name, f"{len(children)} times what follows", count),
            *_layers(children[0][1], f"{prefix}0"),
        ]
    own = module.named_parameters(recurse=False)
    rows = [(prefix + key, f"Parameter {list(p.shape)}", p.numel()) for key, p in own]
    for key, child in children:
        rows += _layers(child, prefix + key)
    return rows
