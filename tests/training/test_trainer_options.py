"""Test options of Lightning's own Trainer: duration, gradient clipping and strategies."""

import pytest
import torch
from library import digits, small, trainer
from program import tiny, train
from pytorch_lightning.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
    Timer,
)
from pytorch_lightning.strategies import FSDPStrategy
from torch.utils.data import DataLoader, IterableDataset

from src.errors import InputError
from src.training.processes import check_strategy
from src.training.trainer import make_trainer

pytestmark = pytest.mark.usefixtures("quiet")


class Endless(IterableDataset):
    """An iterable dataset of digits that has no length."""

    def __iter__(self):
        return iter(digits().dataset)


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "total"),
    [(-1, 6, 6), (2, 100, 8), (100, 6, 6)],
)
def test_the_schedule_ends_at_the_first_limit(max_epochs, max_steps, total):
    model = small(warmup_epochs=0, min_lr=1e-5)
    trainer(max_epochs, max_steps=max_steps).fit(model, digits())
    assert model.total_steps == total
    assert model.lr_now == pytest.approx(1e-5)


def test_data_without_a_length_needs_a_limit():
    loader = DataLoader(Endless(), 64)
    with pytest.raises(InputError, match="set limit_train_batches"):
        trainer().fit(small(), loader)
    model = small()
    trainer(limit_train_batches=3).fit(model, loader)
    assert model.total_steps == 6


def test_gradients_are_clipped_by_value():
    model = small()
    by_value = {"gradient_clip_val": 1e-5, "gradient_clip_algorithm": "value"}
    trainer(1, **by_value).fit(model, digits())
    largest = [float(p.grad.abs().max()) for p in model.net.parameters()]
    assert max(largest) == pytest.approx(1e-5, rel=1e-3)
    assert sum(largest) > 1e-4  # many gradients are clipped


def test_the_last_group_of_accumulated_batches_is_a_mean_too():
    """Two batches have the same gradient as a whole group, and as the rest of a group of three."""
    models = []
    for accumulated in (2, 3):
        torch.manual_seed(0)
        models.append(small(optimizer="sgd", warmup_epochs=0))
        accumulate = {"accumulate_grad_batches": accumulated, "limit_train_batches": 2}
        trainer(1, **accumulate).fit(models[-1], digits())
    whole, rest = (torch.cat([p.flatten() for p in model.parameters()]) for model in models)
    torch.testing.assert_close(rest, whole)


@pytest.mark.parametrize(
    ("callback", "flag"),
    [
        (EarlyStopping("val_loss"), "--patience"),
        (StochasticWeightAveraging(0.1), "--model.ema_decay"),
        (EMAWeightAveraging(), "--model.ema_decay"),
        (Timer("00:00:01:00"), "--trainer.max_time"),
        (GradientAccumulationScheduler({0: 2}), "--trainer.accumulate_grad_batches"),
    ],
)
def test_callbacks_that_a_setting_replaces_are_refused(callback, flag):
    name = type(callback).__name__
    with pytest.raises(InputError, match=f"{name} conflicts with .*; use {flag} instead"):
        make_trainer({"strategy": "auto", "callbacks": [callback]}, None)


def test_a_fast_dev_run_leaves_no_files(tmp_path):
    ended = train(*tiny(tmp_path, "--trainer.fast_dev_run", "true"))
    assert ended.code == 0, ended
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--trainer.val_check_interval=50", "number of the training batches (10)"),
        ("--trainer.limit_val_batches=0", "set trainer.limit_val_batches above 0"),
        ("--trainer.limit_val_batches=0.01", "increase the `limit_val_batches`"),
    ],
)
def test_a_mistake_that_lightning_finds_late_leaves_no_files(tmp_path, flag, message):
    assert message in train(*tiny(tmp_path, flag)).error
    assert not list(tmp_path.iterdir())


class ShardOnCPU(FSDPStrategy):
    """Lightning rejects FSDPStrategy on CPUs, but accepts a subclass."""


def test_a_sharding_strategy_is_refused():
    sharded = trainer(devices=2, strategy=ShardOnCPU())
    with pytest.raises(InputError, match="ShardOnCPU: sharded networks are not supported"):
        check_strategy(sharded)
