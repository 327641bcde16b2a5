"""Test `train.py` with user-defined loggers, callbacks and profilers."""

import csv
import shutil

import pytest
from program import run, tiny, train

from src.runs.checkpoint import Checkpoint
from src.runs.results import read_metrics

LOGGER = "--trainer.logger CSVLogger --trainer.logger.save_dir".split()
MONITOR = """
--trainer.callbacks LearningRateMonitor
--trainer.callbacks.logging_interval step
""".split()


def test_logger_callback_and_profiler_of_the_user(made, tmp_path):
    logs = tmp_path / "logs"
    flags = [
        *LOGGER,
        logs,
        *MONITOR,
        "--trainer.profiler=simple",
        "--seed_everything=3",
    ]
    ended = train(*tiny(tmp_path, *flags, epochs=2))
    assert ended.code == 0, ended
    assert "FIT Profiler Report" in ended.err
    assert list(made.glob("events.*"))
    assert Checkpoint.open(made / "checkpoints" / "last.ckpt").training.seed == 3

    (theirs,) = (logs / "lightning_logs").iterdir()
    assert "width: 8" in (theirs / "hparams.yaml").read_text()
    with open(theirs / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    logged = [float(row["val_accuracy"]) for row in rows if row["val_accuracy"]]
    ours = [float(row["val_accuracy"]) for row in read_metrics(made)]
    assert logged == pytest.approx(ours, abs=1e-4)
    assert any(key.startswith("lr-") for key in rows[0])  # logged by LearningRateMonitor


def test_no_logger(tmp_path):
    made = run(tmp_path, "--trainer.logger=false", epochs=1)
    assert not list(made.glob("events.*"))
    assert (made / "metrics.csv").is_file()


def test_resume_with_another_logger(digits_run, tmp_path):
    copy = shutil.copytree(digits_run, tmp_path / "digits" / "version_0")
    logs = tmp_path / "logs"
    resumed = train("--resume", copy, *LOGGER, logs, "--trainer.max_epochs=3")
    assert resumed.code == 0, resumed
    assert (logs / "lightning_logs" / "version_0" / "metrics.csv").is_file()
