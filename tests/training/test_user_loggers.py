"""Test `train.py` with user-defined loggers, callbacks and profilers."""

import csv
import signal

import pytest
import yaml
from program import run, stop_at, tiny, train
from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

from src.runs.checkpoint import Checkpoint
from src.runs.results import read_metrics
from src.training.loggers import continue_loggers

LOGGER = "--trainer.logger CSVLogger --trainer.logger.save_dir".split()
MONITOR = """
--trainer.callbacks LearningRateMonitor
--trainer.callbacks.logging_interval step
""".split()


def rows_of(version) -> list[dict[str, str]]:
    """Return the rows that a CSVLogger has written to its version directory."""
    with open(version / "metrics.csv") as file:
        return list(csv.DictReader(file))


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
    hparams = yaml.safe_load((theirs / "hparams.yaml").read_text())
    assert hparams["network"]["width"] == 8
    assert (hparams["batch_size"], hparams["epochs"]) == (128, 2)
    assert hparams["augment"]["rotate"] == 10
    rows = rows_of(theirs)
    logged = [float(row["val_accuracy"]) for row in rows if row["val_accuracy"]]
    ours = [float(row["val_accuracy"]) for row in read_metrics(made)]
    assert logged == pytest.approx(ours, abs=1e-4)
    assert any(key.startswith("lr-") for key in rows[0])  # logged by LearningRateMonitor


@pytest.mark.parametrize("version", ["null", "fixed"])
def test_resume_appends_to_the_rows_of_a_csv_logger(made, tmp_path, version):
    logs = tmp_path / "logs"
    flags = [*LOGGER, logs, f"--trainer.logger.version={version}", "--checkpoint_every_n_steps=3"]
    flags.append("--trainer.logger.flush_logs_every_n_steps=1")
    killed = train(*tiny(tmp_path, *flags), prepare=stop_at(17, signal.SIGKILL))
    assert killed.code == -signal.SIGKILL
    (theirs,) = (logs / "lightning_logs").iterdir()
    assert max(int(row["step"]) for row in rows_of(theirs)) >= 15  # after last.ckpt was written
    resumed = train("--resume", made)
    assert resumed.code == 0, resumed
    assert [path.name for path in theirs.parent.iterdir()] == [theirs.name]
    rows = rows_of(theirs)
    steps = [int(row["step"]) for row in rows if row["train_loss_step"]]
    assert steps == list(range(30))
    assert len([row for row in rows if row["val_accuracy"]]) == 3


def test_versions_of_other_loggers_are_restored():
    """MLflow and W&B need not be installed: nothing is started here."""
    loggers = [object.__new__(MLFlowLogger), object.__new__(WandbLogger), TensorBoardLogger(".")]
    loggers[0]._run_id, loggers[1]._wandb_init = None, {"id": None}
    saved = [["MLFlowLogger", "abc"], ["WandbLogger", "xyz"], ["TensorBoardLogger", 3]]
    continue_loggers(loggers, saved, step=20)
    assert loggers[0]._run_id == "abc"
    assert loggers[1]._wandb_init["id"] == "xyz"
    assert loggers[2].version == 3
    continue_loggers(loggers, [["CSVLogger", 7]] * 3, step=20)  # of another type: left alone
    assert loggers[2].version == 3


def test_no_logger(tmp_path):
    made = run(tmp_path, "--trainer.logger=false", epochs=1)
    assert not list(made.glob("events.*"))
    assert (made / "metrics.csv").is_file()
