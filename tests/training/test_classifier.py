"""What a step does to the weights, by hand, and which options there are."""

import inspect
import re
from dataclasses import fields

import pytest
import torch
from program import train
from pytorch_lightning import Callback

from src.data.modules import DigitsDataModule
from src.models.vit import VisionTransformer
from src.training.classifier import FROM_DATA, Training, ViT
from src.training.trainer import Trainer


class Weights(Callback):
    """The network's parameters as one vector, before the first step and after each."""

    def on_train_start(self, trainer, module) -> None:
        self.seen = [torch.nn.utils.parameters_to_vector(module.net.parameters()).detach()]

    def on_train_batch_end(self, trainer, module, *rest) -> None:
        self.seen.append(torch.nn.utils.parameters_to_vector(module.net.parameters()).detach())


def trained(steps: int, clip: float | None = None, **options) -> tuple[ViT, list[torch.Tensor]]:
    """A small network after so many steps on digits, and its weights before and after each."""
    data, weights = DigitsDataModule(patch_size=None, batch_size=64), Weights()
    model = ViT(
        data.description, width=8, depth=1, heads=1, stem_layers=2, warmup_epochs=0, **options
    )
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, limit_train_batches=steps, limit_val_batches=0, gradient_clip_val=clip,
        use_distributed_sampler=False, callbacks=[weights], **quiet,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return model, weights.seen


def test_the_average_of_the_weights_by_hand():
    model, (start, first, second) = trained(2, lr=0.1, ema_decay=0.2)
    average = start + (1 - 2 / 11) * (first - start)  # the warm-up of the average: 2/11, 3/12, ...
    average = average + (1 - 0.2) * (second - average)  # ... but never above ema_decay
    found = torch.nn.utils.parameters_to_vector(model.ema.parameters())
    torch.testing.assert_close(found, average, atol=1e-6, rtol=1e-5)
    assert (found - second).norm() > 1e-3
    for ours, theirs in zip(
        model.ema.buffers(), model.net.buffers(), strict=True
    ):  # batch norm's statistics
        assert torch.equal(ours, theirs)


def test_a_clipped_gradient_has_the_norm_it_is_clipped_to():
    sgd = {"optimizer": "sgd", "lr": 0.5, "weight_decay": 0}
    clipped, free = (trained(1, clip, **sgd)[1] for clip in (0.01, None))
    nesterov = 1 + 0.9  # the first step of momentum 0.9
    assert (clipped[1] - clipped[0]).norm() == pytest.approx(0.5 * nesterov * 0.01, rel=0.01)
    assert (free[1] - free[0]).norm() > 0.05


@pytest.mark.parametrize("whiten", [False, True])
def test_a_frozen_stem_keeps_its_statistics(whiten):
    stem = {"stem_layers": 2, "whiten": whiten}
    description = DigitsDataModule(patch_size=None).description
    frozen = ViT(description, width=32, depth=1, heads=2, freeze="encoder", **stem)
    before = {key: value.clone() for key, value in frozen.net.state_dict().items()}
    frozen.net(torch.randn(4, 1, 8, 8)).sum().backward()
    assert all(torch.equal(before[key], value) for key, value in frozen.net.state_dict().items())
    assert (
        frozen.net.head.weight.grad is not None
        and frozen.net.embed.stages[0].conv1.weight.grad is None
    )


def test_every_option_of_network_and_training_is_a_flag_with_help():
    shown = re.findall(
        r"^  --model\.(\w+) \S+\s+(.+(?:\n {20,}.+)*)",
        train("--model.help", "ViT").out,
        re.MULTILINE,
    )
    options = {name: " ".join(text.split()) for name, text in shown}
    network = inspect.signature(VisionTransformer).parameters.keys() - set(FROM_DATA)
    assert options.keys() == {"dataset", "init_from", "freeze"} | network | {
        field.name for field in fields(Training)
    }
    assert all(re.match(r"\S+ \S+ .*\((required, )?type: ", text) for text in options.values()), (
        options
    )
    assert options["mlp_ratio"].endswith("(type: float, default: 4.0)")
    assert options["beta2"].endswith("(type: float, default: 0.999)")
