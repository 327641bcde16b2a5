"""Test which validation best.ckpt belongs to, and when early stopping ends a run."""

from functools import partial

import pytest
from library import trainer
from program import each, run, stop_at, tiny, train, validate_as

from src.data.modules import DigitsDataModule
from src.runs.checkpoint import Checkpoint
from src.runs.results import read_metrics, read_results
from src.training.classifier import ViT

pytestmark = pytest.mark.usefixtures("quiet")
MIDDLE = "--trainer.val_check_interval=7"  # of 10 batches


def test_best_has_the_weights_that_were_validated(tmp_path):
    made = run(tmp_path, MIDDLE)
    best = made / "checkpoints" / "best.ckpt"
    assert Checkpoint.open(best).global_step in (7, 17)
    results = read_results(made)
    data = DigitsDataModule()
    (validated,) = trainer().validate(ViT.load_from_checkpoint(best), data, verbose=False)
    assert results["val_accuracy"] == pytest.approx(validated["val_accuracy"], abs=1e-6)
    (tested,) = trainer().test(ViT.load_from_checkpoint(best), data, verbose=False)
    assert results["test_accuracy"] == pytest.approx(tested["test_accuracy"], abs=1e-6)


def test_the_best_of_several_validations_in_an_epoch_is_kept(tmp_path):
    """The last validation of the epoch is worse."""
    accuracies = (partial(validate_as, every=3), 0.5, 0.7, 0.6)
    made = run(tmp_path, "--trainer.val_check_interval=3", epochs=1, prepare=accuracies)
    best = Checkpoint.open(made / "checkpoints" / "best.ckpt")
    assert best.global_step == 6
    assert read_results(made)["val_accuracy"] == 0.7
    assert float(read_metrics(made)[0]["val_accuracy"]) == 0.6


TWICE = ["--trainer.val_check_interval=0.5", "--patience=1"]


def twice(*accuracies: float) -> tuple:
    """Return a `prepare` for two validations per epoch with the given accuracies."""
    return (partial(validate_as, every=5), *accuracies)


@pytest.mark.parametrize(
    ("accuracies", "epochs"),
    [
        ((0.5, 0.4, 0.6, 0.4, 0.3, 0.5), 3),  # improves in the middle of epoch 2
        ((0.5, 0.6, 0.6, 0.4), 2),  # a tie is no improvement
    ],
)
def test_patience_counts_whole_epochs(made, tmp_path, accuracies, epochs):
    first = train(*tiny(tmp_path, *TWICE, epochs=9), prepare=twice(*accuracies))
    assert first.code == 0, first
    assert [row["step"] for row in read_metrics(made)] == [str(10 * n + 10) for n in range(epochs)]
    assert "had not improved for 1 epochs" in train("--resume", made).out


def test_an_unfinished_epoch_does_not_count(made, tmp_path):
    """In epoch 2, the first validation is worse than the best so far, and the second is better."""
    accuracies = twice(0.4, 0.5, 0.4, 0.6, 0.3, 0.2)
    stopped = train(*tiny(tmp_path, *TWICE), prepare=(each, stop_at(17), accuracies))
    assert stopped.code == 143, stopped
    resumed = train("--resume", made, prepare=accuracies)
    assert resumed.code == 0, resumed
    assert len(read_metrics(made)) == 3
