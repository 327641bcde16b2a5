"""Options of Lightning's own Trainer: limits, clipping, loggers and strategies."""

import math

import pytest
from library import digits, small, trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.strategies import FSDPStrategy
from torch.nn.utils import get_total_norm
from torch.utils.data import DataLoader, IterableDataset

from src.errors import InputError
from src.training.processes import check_strategy

pytestmark = pytest.mark.usefixtures("quiet")


class Rates(Callback):
    """Record the learning rate of every step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, module, *rest):
        self.seen.append(module.lr_now)


class Gradients(Callback):
    """Keep the norm and the largest value of the last step's gradient."""

    def on_train_batch_end(self, trainer, module, *rest):
        gradients = [p.grad for p in module.net.parameters()]
        self.norm = float(get_total_norm(gradients))
        self.largest = float(get_total_norm(gradients, math.inf))


class Endless(IterableDataset):
    """Digits without a length."""

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


def test_the_learning_rate_is_constant_without_a_number_of_steps():
    model = small(warmup_epochs=0)
    trainer(-1, max_time={"seconds": 1}).fit(model, digits())
    assert model.total_steps == math.inf
    assert model.lr_now == pytest.approx(1e-2)


@pytest.mark.parametrize("epochs", [2, 3])
def test_warmup_steps_do_not_depend_on_epochs(epochs):
    rates = Rates()
    model = small(warmup_steps=3, warmup_epochs=9)
    trainer(epochs, callbacks=[rates]).fit(model, digits())
    assert rates.seen[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert rates.seen[4] < 0.01


def test_data_without_a_length_needs_a_limit():
    loader = DataLoader(Endless(), 64)
    with pytest.raises(InputError, match="set limit_train_batches"):
        trainer().fit(small(), loader)
    model = small()
    trainer(limit_train_batches=3).fit(model, loader)
    assert model.total_steps == 6


def test_gradients_are_clipped_by_norm_or_value():
    gradients = Gradients()
    by_norm = trainer(1, gradient_clip_val=1e-3, callbacks=[gradients])
    by_norm.fit(small(), digits())
    assert gradients.norm == pytest.approx(1e-3, rel=1e-3)
    by_value = trainer(
        1,
        gradient_clip_val=1e-5,
        gradient_clip_algorithm="value",
        callbacks=[gradients],
    )
    by_value.fit(small(), digits())
    assert gradients.largest == pytest.approx(1e-5, rel=1e-3)
    assert gradients.norm > 1e-4


def test_several_loggers_and_a_profiler(tmp_path):
    loggers = [
        CSVLogger(tmp_path, "csv"),
        TensorBoardLogger(tmp_path, "tensorboard"),
    ]
    fit = trainer(1, logger=loggers, profiler="simple", log_every_n_steps=1)
    fit.fit(small(), digits(), digits())
    assert "run_training_batch" in fit.profiler.summary()
    for logger in loggers:
        hparams = (tmp_path / logger.name / "version_0" / "hparams.yaml").read_text()
        assert "optimizer: adamw" in hparams
    assert "val_accuracy" in (tmp_path / "csv" / "version_0" / "metrics.csv").read_text()
    assert list((tmp_path / "tensorboard" / "version_0").glob("events.*"))


class ShardOnCPU(FSDPStrategy):
    """Lightning refuses its own class on a CPU, but not a subclass."""


def test_a_sharding_strategy_is_refused():
    sharded = trainer(devices=2, strategy=ShardOnCPU())
    with pytest.raises(InputError, match="ShardOnCPU: sharded networks are not supported"):
        check_strategy(sharded)
