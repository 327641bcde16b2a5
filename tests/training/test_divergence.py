"""Test that diverging runs stop with an error and keep the last good checkpoint."""

import pytest
import torch
from program import tiny, train

from src.runs.checkpoint import load


def break_at(step: int, what: str) -> None:
    """Set a weight to NaN or an optimizer moment to infinity at the given step."""
    from src.training.classifier import Classifier

    original = Classifier.training_step

    def training_step(self, batch, batch_idx):
        weight = self.net.norm.weight
        if self.global_step == step and what == "weight":
            weight.data[0] = torch.nan
        elif self.global_step == step:
            (optimizer,) = self.trainer.optimizers
            optimizer.state[weight]["exp_avg_sq"][0] = torch.inf
        return original(self, batch, batch_idx)

    Classifier.training_step = training_step


def test_a_loss_of_nan_stops_the_run(last, tmp_path):
    arguments = tiny(tmp_path, "--checkpoint_every_n_steps=3")
    error = train(*arguments, prepare=(break_at, 14, "weight")).error
    assert "the loss became nan at step 14; " in error
    assert f"the last good checkpoint is {last}; start again with a lower --model.lr" in error
    assert load(last)["global_step"] == 12


@pytest.mark.parametrize(("step", "kept"), [(9, 8), (11, 10)])  # end or middle of an epoch
def test_no_checkpoint_has_infinite_values(last, tmp_path, step, kept):
    arguments = tiny(tmp_path, "--checkpoint_every_n_steps=2")
    error = train(*arguments, prepare=(break_at, step, "moment")).error
    assert "a weight or an optimizer moment became infinite or NaN" in error
    content = load(last)
    assert content["global_step"] == kept
    (optimizer,) = content["optimizer_states"]
    for moments in optimizer["state"].values():
        assert moments["exp_avg_sq"].isfinite().all()


def test_a_learning_rate_that_is_far_too_high(tmp_path):
    flags = """
    --model.lr 1e38
    --model.weight_decay 0
    --model.warmup_epochs 0
    """.split()
    error = train(*tiny(tmp_path, *flags)).error
    assert "became" in error
    assert "no checkpoint exists; start again with a lower --model.lr" in error
