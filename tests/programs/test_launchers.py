"""Test training in two processes: all launchers give equal results, and resuming is exact."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from launch import free_port, launch, slurm, start, torchrun
from photos import class_folders
from program import STEPS, Ended, differences, each, started, stop_at, tiny, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.data.datasets import read_digits
from src.inference.predictor import Predictor
from src.runs.checkpoint import load
from src.runs.results import read_metrics, read_results
from src.training.loggers import TAGS
from src.training.slurm import requeue

DDP = ("--trainer.strategy", "ddp", "--trainer.devices", "2")
TWO = (*DDP, "--data.batch_size", "64")
TWO_NODES = (*TWO, "--trainer.devices", "1", "--trainer.num_nodes", "2")
TORCHRUN = [torchrun(rank, 2) for rank in range(2)]
SLURM = [slurm(rank, 2) for rank in range(2)]

# Without random augmentation and dropout, results do not depend on the number of processes.
PLAIN = """
--data.augment.rotate 0
--data.augment.resized_crop 0
--data.augment.mixup 0
--model.dropout 0
--model.attention_dropout 0
--model.drop_path 0
""".split()


EPOCHS = 2


def short(runs: Path, *more) -> list:
    return tiny(runs, *more, epochs=EPOCHS)


def run_in(folder: Path) -> Path:
    (run,) = folder.glob("digits/version_*")
    return run


def last_step(run: Path) -> int:
    return load(run / "checkpoints" / "last.ckpt")["global_step"]


def metrics(run: Path) -> list[dict]:
    """Return the rows of metrics.csv without the training speed."""
    rows = read_metrics(run)
    for row in rows:
        del row["images_per_second"]
    return [{key: float(value) for key, value in row.items()} for row in rows]


def assert_codes(ended: list[Ended], *codes: int) -> None:
    texts = "\n---\n".join(one.text for one in ended)
    assert [one.code for one in ended] == list(codes), texts


def assert_same(a: Path, b: Path) -> None:
    """Compare the checkpoints, metrics and results of two runs bit for bit."""
    for name in ("best.ckpt", "last.ckpt"):
        ours, theirs = (load(run / "checkpoints" / name) for run in (a, b))
        assert differences(ours, theirs) == []
    assert metrics(a) == metrics(b)
    ours, theirs = read_results(a), read_results(b)
    for key in ("train_seconds", "images_per_second"):
        del ours[key], theirs[key]
    assert ours == theirs


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """An uninterrupted run in two processes, the second of which is started by Lightning."""
    runs = tmp_path_factory.mktemp("undisturbed")
    ended = train(*short(runs, *TWO))
    assert ended.code == 0, ended
    assert ended.err == ""
    assert ended.out.count("epoch 2/2") == 1
    assert ended.out.count("Test accuracy") == 1
    return run_in(runs)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """A single-process run with the `PLAIN` settings."""
    runs = tmp_path_factory.mktemp("one")
    ended = train(*short(runs, *PLAIN))
    assert ended.code == 0, ended
    return run_in(runs)


# Launchers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environments", "flags"),
    [
        (TORCHRUN, TWO),
        ([slurm(rank, 2, nodes=2) for rank in range(2)], TWO_NODES),
    ],
    ids=["torchrun", "SLURM, two nodes"],
)
def test_every_launcher_trains_the_same_run(undisturbed, tmp_path, environments, flags):
    first, second = ended = launch(short(tmp_path, *flags), environments)
    assert_codes(ended, 0, 0)
    assert_same(run_in(tmp_path), undisturbed)
    assert first.text.count("Test accuracy") == 1
    assert second.text == ""


def test_every_test_image_is_counted_once(undisturbed):
    """The 359 test images are split unevenly: the first process gets one more than the second."""
    results = read_results(undisturbed)
    images, labels = read_digits("test")
    predictor = Predictor(undisturbed / "checkpoints" / results["checkpoint"], "cpu")
    correct = predictor.probabilities(images).argmax(1) == labels
    assert results["test_accuracy"] == pytest.approx(float(correct.double().mean()), abs=1e-7)
    assert results["test_images"] == 359
    assert results["images_seen"] == EPOCHS * STEPS * 128


def test_a_process_is_killed_and_the_real_torchrun_resumes(undisturbed, tmp_path):
    """Run the real torchrun. For speed, all other tests only set its environment variables."""
    flags = short(tmp_path, *TWO, "--checkpoint_every_n_steps", "3")
    kill = stop_at(14, signal.SIGKILL)
    survivor, killed = launch(flags, TORCHRUN, lambda rank: kill if rank else ())
    assert killed.code == -signal.SIGKILL
    run = run_in(tmp_path)
    assert "another process of this run has died" in survivor.error
    assert f"{run / 'checkpoints' / 'last.ckpt'} is intact; use --resume" in survivor.error
    assert last_step(run) == 12

    command = ["-m", "torch.distributed.run", "--nproc-per-node", 2, "--master-port", free_port()]
    ended = started(*command, "train.py", "--resume", run)
    assert ended.code == 0, ended
    assert "Test accuracy" in ended.out
    assert_same(run, undisturbed)


# Stopping and resuming ----------------------------------------------------------------------------


def test_a_signal_to_the_second_process_stops_both(tmp_path):
    stop = stop_at(STEPS)
    ended = launch(short(tmp_path, *TWO), TORCHRUN, lambda rank: stop if rank else ())
    assert_codes(ended, 143, 143)
    assert "Stopped by SIGTERM." in ended[0].text
    assert last_step(run_in(tmp_path)) == STEPS


def make_scontrol(folder: Path) -> None:
    """Put a fake `scontrol`, which appends its arguments to `folder/asked`, on the PATH."""
    script = folder / "bin" / "scontrol"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\n')
    script.chmod(0o755)
    os.environ["PATH"] = f"{script.parent}:{os.environ['PATH']}"


def test_a_signal_of_slurm_saves_and_requeues_the_job(undisturbed, tmp_path):
    signaled = (each, (make_scontrol, tmp_path), stop_at(14, signal.SIGUSR1))
    ended = launch(short(tmp_path, *TWO), SLURM, lambda rank: signaled)
    assert_codes(ended, 138, 138)
    assert "Stopped by SIGUSR1." in ended[0].text
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    ended = launch(["--resume", "--name", "digits", "--runs", tmp_path], SLURM)
    assert_codes(ended, 0, 0)
    assert_same(run_in(tmp_path), undisturbed)


def test_a_job_of_an_array_is_requeued_by_its_index(monkeypatch):
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    requeue()  # does nothing without SLURM
    assert not commands
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4700")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    requeue()
    assert commands == [["scontrol", "requeue", "4700_3"]]


# Different numbers of processes -------------------------------------------------------------------


def step_losses(run: Path) -> dict[int, float]:
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    return {event.step: event.value for event in events.Scalars(TAGS["train_loss_step"])}


def assert_close(a: Path, b: Path) -> None:
    """Compare the losses and metrics of two runs within float tolerance.

    Weights are not compared. If the exact gradient is zero, as it is for the bias of the keys,
    Adam turns rounding errors into full steps.
    """
    ours, theirs = step_losses(a), step_losses(b)
    assert set(ours) == set(theirs) == set(range(EPOCHS * STEPS))
    assert ours == pytest.approx(theirs, abs=1e-5)
    for our_row, their_row in zip(metrics(a), metrics(b), strict=True):
        assert our_row == pytest.approx(their_row, rel=1e-4)


def test_two_processes_with_half_the_batch_learn_the_same(one_process, tmp_path):
    ended = launch(short(tmp_path, *PLAIN, *TWO), TORCHRUN)
    assert_codes(ended, 0, 0)
    assert_close(run_in(tmp_path), one_process)


def test_started_on_one_process_resumed_on_two_and_then_on_one(one_process, tmp_path):
    assert train(*short(tmp_path, *PLAIN), prepare=stop_at(4)).code == 143
    run = run_in(tmp_path)
    ended = launch(["--resume", run, *DDP], TORCHRUN, lambda rank: stop_at(17))
    assert_codes(ended, 143, 143)
    assert "the global batch size stays 128: 64 images on each of 2 device(s)" in ended[0].text
    assert "batch_size: 64\n" in (run / "config.yaml").read_text()

    alone = train("--resume", run, "--trainer.devices", "1")
    assert alone.code == 0, alone
    assert "128 images on each of 1 device(s)" in alone.text
    assert "batch_size: 128\n" in (run / "config.yaml").read_text()
    assert_close(run, one_process)
    assert read_results(run)["images_seen"] == EPOCHS * STEPS * 128


def test_a_batch_that_cannot_be_divided(one_process):
    flags = ["--resume", one_process, "--trainer.devices", "3"]
    (ended,) = launch(flags, [torchrun(0, 3)])
    message = "this run's batch of 128 images cannot be split evenly across 3 processes"
    assert message in ended.error


# Data ---------------------------------------------------------------------------------------------

FOLDER = """
--config configs/folder.yaml
--data.batch_size 4
--data.image_size 16
--model.width 8
--model.depth 1
--model.heads 2
--trainer.max_epochs 1
--trainer.accelerator cpu
--pictures false
""".split()


@pytest.fixture
def photos(tmp_path):
    return class_folders(tmp_path / "photos", ("cat", "dog"), (20, 20), train=8, test=5)


@pytest.fixture
def flags(photos, tmp_path):
    return [*FOLDER, *DDP, "--data.root", photos, "--runs", tmp_path / "runs"]


def test_a_mistake_in_the_data_is_printed_once_and_ends_all(photos, flags, tmp_path):
    (photos / "train" / "cat" / "0.png").write_text("not an image")
    ended = launch(flags, TORCHRUN)
    assert_codes(ended, 2, 2)
    assert "1 image(s) cannot be read" in ended[0].error
    assert ended[1].text == ""
    assert not list(tmp_path.glob("runs/*/version_*"))


# Errors -------------------------------------------------------------------------------------------


def test_a_run_that_another_job_trains_is_refused(undisturbed, tmp_path):
    run = shutil.copytree(undisturbed, tmp_path / "digits" / "version_0")
    flags = ["--resume", run, "--trainer.max_epochs", "5"]
    first = start(flags, TORCHRUN, lambda rank: stop_at(EPOCHS * STEPS + 3, signal.SIGSTOP))
    while not is_stopped(first[0].process.pid):
        assert first[0].process.is_alive()
        time.sleep(0.05)
    ended = launch(flags, TORCHRUN)
    for one in first:
        one.process.kill()
    assert_codes(ended, 2, 2)
    assert "another process is training this run" in ended[0].error
    assert ended[1].text == ""


def is_stopped(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return state == "T"


def test_more_processes_than_devices(tmp_path):
    (ended,) = launch(short(tmp_path, "--trainer.devices", "1"), TORCHRUN[:1])
    message = "2 processes were started, but trainer.devices times trainer.num_nodes is 1"
    assert message in ended.error
    assert not list(tmp_path.iterdir())


def test_flags_that_contradict_slurm(tmp_path):
    other = {"SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2"}
    (ended,) = launch(short(tmp_path, *TWO), [SLURM[0] | other])
    assert ended.error.startswith("error: trainer: ")
    assert "--ntasks-per-node=1" in ended.error


@pytest.mark.parametrize("strategy", ["ddp_spawn", "fsdp"])
def test_other_strategies_are_refused(tmp_path, strategy):
    ended = train(*short(tmp_path, "--trainer.devices", "2", "--trainer.strategy", strategy))
    assert f"trainer.strategy {strategy} is not supported; use auto or ddp" in ended.error
    assert not list(tmp_path.iterdir())
