"""Two processes of one training, whoever started them: one run, the same figures, and a resume that loses nothing."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from launch import free_port, launch, node, slurm, start, torchrun
from photos import class_folders
from program import STEPS, Ended, differences, each, started, stop_at, tiny, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.data.datasets import read_digits
from src.inference.predictor import Predictor
from src.runs.checkpoint import load_checkpoint
from src.runs.results import read_metrics
from src.training.epoch_log import TAGS

TWO = ("--trainer.strategy", "ddp", "--trainer.devices", "2", "--data.batch_size", "64")
TWO_NODES = (
    "--trainer.strategy",
    "ddp",
    "--trainer.num_nodes",
    "2",
    "--trainer.devices",
    "1",
    *TWO[4:],
)
TORCHRUN = [torchrun(rank, 2) for rank in range(2)]
SLURM = [slurm(rank, 2) for rank in range(2)]
PLAIN = """--data.augment.rotate 0 --data.augment.resized_crop 0 --data.augment.mixup 0
    --model.dropout 0 --model.attention_dropout 0 --model.drop_path 0""".split()


def run_in(folder: Path) -> Path:
    (run,) = folder.glob("digits/version_*")
    return run


def last(run: Path) -> dict:
    return load_checkpoint(run / "checkpoints" / "last.ckpt")


def metrics(run: Path) -> list[dict]:
    """Rows of metrics.csv, but for the speed."""
    return [
        {key: value for key, value in row.items() if key != "images_per_second"}
        for row in read_metrics(run)
    ]


def codes(ended: list[Ended]) -> list[int]:
    return [one.code for one in ended]


def texts(ended: list[Ended]) -> str:
    return "\n---\n".join(one.text for one in ended)


def assert_same(a: Path, b: Path) -> None:
    """Both checkpoints, the metrics and the test of two runs are equal, bit for bit."""
    for name in ("best.ckpt", "last.ckpt"):
        assert differences(*(load_checkpoint(run / "checkpoints" / name) for run in (a, b))) == []
    assert metrics(a) == metrics(b)
    tests = [json.loads((run / "results.json").read_text()) for run in (a, b)]
    for key in (
        "epochs",
        "images_seen",
        "val_accuracy",
        "test_accuracy",
        "test_loss",
        "test_images",
    ):
        assert tests[0][key] == tests[1][key], key


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Two processes that Lightning itself has started; nothing stopped them."""
    runs = tmp_path_factory.mktemp("undisturbed")
    ended = train(*tiny(runs, *TWO))
    assert ended.code == 0, ended.text
    return run_in(runs)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """One process, without anything that is drawn for each image."""
    runs = tmp_path_factory.mktemp("one")
    assert train(*tiny(runs, *PLAIN)).code == 0
    return run_in(runs)


# Who starts them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environments", "flags"),
    [(TORCHRUN, TWO), ([torchrun(rank, 2, nodes=2) for rank in range(2)], TWO_NODES), (SLURM, TWO),
     ([slurm(rank, 2, nodes=2) for rank in range(2)], TWO_NODES), ([node(0), node(1)], TWO_NODES)],
    ids=["torchrun", "torchrun, two nodes", "slurm", "slurm, two nodes", "by hand, two nodes"],
)  # fmt: skip
def test_every_launcher_trains_the_same_run(undisturbed, tmp_path, environments, flags):
    ended = launch(tiny(tmp_path, *flags), environments)
    assert codes(ended) == [0, 0], texts(ended)
    assert_same(run_in(tmp_path), undisturbed)
    assert ended[0].text.count("Test accuracy") == 1 and not ended[1].text
    assert str(run_in(tmp_path)) in ended[0].text


def test_the_test_is_exact_over_all_images(undisturbed):
    found = json.loads((undisturbed / "results.json").read_text())
    images, labels = read_digits("test")  # 359: one more for the first process than for the second
    predicted = (
        Predictor(undisturbed / "checkpoints" / found["checkpoint"], "cpu")
        .probabilities(images)
        .argmax(1)
    )
    assert found["test_accuracy"] == pytest.approx(
        float((predicted == labels).double().mean()), abs=1e-7
    )
    assert found["test_images"] == 359 and found["images_seen"] == 3 * STEPS * 128


def test_torchrun_itself_goes_on_with_a_run_that_was_killed(undisturbed, tmp_path):
    """The real command, which all else here does without: it takes ten times as long to start."""
    every = ("--checkpoint_every_n_steps", "1")
    launch(tiny(tmp_path, *TWO, *every), TORCHRUN, lambda rank: stop_at(14, signal.SIGKILL))
    run = run_in(tmp_path)
    assert last(run)["global_step"] == 13
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", 2, "--master-port", free_port()]
    ended = started(*torchrun, "train.py", "--resume", run)
    assert ended.code == 0 and "Test accuracy" in ended.out, ended
    assert_same(run, undisturbed)


# Stopped and resumed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "who"), [(4, (0,)), (10, (1,)), (17, (0, 1))])
def test_a_signal_to_any_of_them_stops_all(undisturbed, tmp_path, step, who):
    ended = launch(
        tiny(tmp_path, *TWO), TORCHRUN, lambda rank: stop_at(step) if rank in who else ()
    )
    assert codes(ended) == [143, 143] and "Stopped by SIGTERM." in ended[0].text, texts(ended)
    run = run_in(tmp_path)
    assert last(run)["global_step"] == step
    ended = launch(["--resume", run], TORCHRUN)
    assert codes(ended) == [0, 0], texts(ended)
    assert_same(run, undisturbed)


def test_killed_between_two_checkpoints(undisturbed, tmp_path):
    every = ("--checkpoint_every_n_steps", "3")
    ended = launch(tiny(tmp_path, *TWO, *every), TORCHRUN, lambda rank: stop_at(17, signal.SIGKILL))
    assert set(codes(ended)) <= {-9, 2} and -9 in codes(ended), texts(ended)
    run = run_in(tmp_path)
    assert last(run)["global_step"] == 15
    assert codes(launch(["--resume", run], TORCHRUN)) == [0, 0]
    assert_same(run, undisturbed)


def with_slurms_command(folder: Path, step: int, **environment: str) -> None:
    """A `scontrol` that writes down what it was asked, and SLURM's warning that the time is nearly up."""
    script = folder / "bin" / "scontrol"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\n')
    script.chmod(0o755)
    os.environ.update(environment, PATH=f"{script.parent}:{os.environ['PATH']}")
    each(stop_at(step, signal.SIGUSR1))


@pytest.mark.parametrize(
    ("more", "job"),
    [({}, "4711"), ({"SLURM_ARRAY_JOB_ID": "4700", "SLURM_ARRAY_TASK_ID": "3"}, "4700_3")],
)
def test_slurms_signal_saves_and_queues_the_job_again(undisturbed, tmp_path, more, job):
    environments = [slurm(rank, 2) | more for rank in range(2)]
    ended = launch(
        tiny(tmp_path, *TWO), environments, lambda rank: (with_slurms_command, tmp_path, 14)
    )
    assert codes(ended) == [138, 138] and "Stopped by SIGUSR1." in ended[0].text, texts(ended)
    assert (tmp_path / "asked").read_text() == f"requeue {job}\n"
    ended = launch(["--resume", "--name", "digits", "--runs", tmp_path], environments)
    assert codes(ended) == [0, 0], texts(ended)
    assert_same(run_in(tmp_path), undisturbed)


def test_without_slurm_its_signal_stops_as_any_other(tmp_path):
    ended = train(*tiny(tmp_path), prepare=stop_at(4, signal.SIGUSR1))
    assert (
        ended.code == 138
        and "Stopped by SIGUSR1." in ended.text
        and last(run_in(tmp_path))["global_step"] == 4
    )


# Another number of processes -------------------------------------------------------------------------------------


def assert_close(a: Path, b: Path) -> None:
    """Losses and metrics are those of the other run within float tolerance.

    Weights need not be: Adam makes whole steps of rounding errors where a gradient is zero, as that of a key's bias.
    """
    curves = [EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload() for run in (a, b)]
    ours, theirs = (
        {e.step: e.value for e in curve.Scalars(TAGS["train_loss_step"])} for curve in curves
    )
    assert ours.keys() == theirs.keys() == set(range(3 * STEPS))
    assert max(abs(ours[step] - theirs[step]) for step in ours) < 1e-5
    for ours, theirs in zip(metrics(a), metrics(b), strict=True):
        for key in ours:
            assert float(ours[key]) == pytest.approx(float(theirs[key]), rel=1e-4), key


def test_two_processes_with_half_the_batch_learn_the_same(one_process, tmp_path):
    ended = launch(tiny(tmp_path, *PLAIN, *TWO), TORCHRUN)
    assert codes(ended) == [0, 0], texts(ended)
    assert_close(run_in(tmp_path), one_process)


def test_begun_on_two_and_resumed_on_one(one_process, tmp_path):
    launch(tiny(tmp_path, *PLAIN, *TWO), TORCHRUN, lambda rank: stop_at(14))
    resumed = train("--resume", run_in(tmp_path), "--trainer.devices", "1")
    assert (
        resumed.code == 0
        and "the batch stays 128 images: 128 on each of 1 device(s)" in resumed.text
    )
    assert "batch_size: 128\n" in (run_in(tmp_path) / "config.yaml").read_text(), (
        "which alone repeats the run"
    )
    assert_close(run_in(tmp_path), one_process)


def test_begun_on_one_and_resumed_on_two_and_then_on_one(one_process, tmp_path):
    assert train(*tiny(tmp_path, *PLAIN), prepare=stop_at(4)).code == 143
    flags = ["--resume", run_in(tmp_path), "--trainer.strategy", "ddp", "--trainer.devices", "2"]
    ended = launch(flags, TORCHRUN, lambda rank: stop_at(17))
    assert codes(ended) == [143, 143] and "64 on each of 2 device(s)" in ended[0].text, texts(ended)
    assert train("--resume", run_in(tmp_path), "--trainer.devices", "1").code == 0
    assert_close(run_in(tmp_path), one_process)
    assert (
        json.loads((run_in(tmp_path) / "results.json").read_text())["images_seen"]
        == 3 * STEPS * 128
    )


def test_a_batch_that_does_not_divide(tmp_path):
    assert train(*tiny(tmp_path, "--data.batch_size", "65"), prepare=stop_at(4)).code == 143
    ended = launch(["--resume", run_in(tmp_path), "--trainer.devices", "2"], TORCHRUN)
    assert (
        "a batch of this run has 65 images, which cannot be divided among 2 processes"
        in ended[0].error
    )


# Data ------------------------------------------------------------------------------------------------------------


def write_down_who_decodes(folder: Path, rank: int) -> None:
    from src.data import folders

    usual = folders._decode

    def decode(*args):
        (folder / f"decoded by {rank}").touch()
        return usual(*args)

    folders._decode = decode


def folder_flags(photos: Path, runs: Path) -> list:
    network = "--model.width 8 --model.depth 1 --model.heads 2 --trainer.max_epochs 1 --trainer.accelerator cpu".split()
    data = ["--data.root", photos, "--data.batch_size", 4, "--data.image_size", 16]
    return ["--config", "configs/folder.yaml", *data, *network, *TWO[:4], "--runs", runs]


def test_images_are_decoded_once(tmp_path):
    photos = class_folders(tmp_path / "photos", ("cat", "dog"), (20, 20), train=8, test=5)
    flags = folder_flags(photos, tmp_path / "runs")
    ended = launch(flags, TORCHRUN, lambda rank: (write_down_who_decodes, tmp_path, rank))
    assert codes(ended) == [0, 0], texts(ended)
    assert [path.name for path in tmp_path.glob("decoded by *")] == ["decoded by 0"]


# What can go wrong: one line -------------------------------------------------------------------------------------


def test_a_mistake_of_the_data_is_said_once_and_ends_all(tmp_path):
    photos = class_folders(tmp_path / "photos", ("cat", "dog"), (20, 20), train=8)
    (photos / "train" / "cat" / "0.png").write_text("not an image")
    ended = launch(folder_flags(photos, tmp_path / "runs"), TORCHRUN)
    assert (
        "1 image(s) cannot be read" in ended[0].error
        and codes(ended) == [2, 2]
        and not ended[1].text
    )
    assert not list((tmp_path / "runs").rglob("version_*"))


def test_a_run_that_another_job_trains_is_refused_by_all(undisturbed, tmp_path):
    run = shutil.copytree(undisturbed, tmp_path / "digits" / "version_0")
    flags = ["--resume", run, "--trainer.max_epochs", "5"]
    first = start(flags, TORCHRUN, lambda rank: stop_at(33, signal.SIGSTOP))
    while last(run)["global_step"] == 30 and not _stopped(first[0].process.pid):
        time.sleep(0.05)
    ended = launch(flags, TORCHRUN)
    for process in first:
        process.process.kill()
    assert (
        "another process is training this run" in ended[0].error
        and codes(ended) == [2, 2]
        and not ended[1].text
    )


def _stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


@pytest.mark.parametrize("environments", [TORCHRUN, SLURM], ids=["torchrun", "slurm"])
def test_forgotten_devices(tmp_path, environments):
    for one in launch(tiny(tmp_path, "--trainer.devices", "1"), environments):
        assert (
            "2 processes were started, but trainer.devices times trainer.num_nodes is 1"
            in one.error
        )
    assert not list(tmp_path.iterdir())


def test_numbers_that_do_not_fit_slurms(tmp_path):
    environments = [
        slurm(rank, 2) | {"SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2"} for rank in range(2)
    ]
    for one in launch(tiny(tmp_path, *TWO), environments):
        assert "error: trainer: " in one.error and "--ntasks-per-node=1" in one.error


@pytest.mark.parametrize(
    ("flags", "said"),
    [(("--trainer.accelerator", "gpu"), "error: trainer: No supported gpu backend found"),
     (("--trainer.strategy", "fsdp"), "requires a GPU accelerator"),
     (("--trainer.strategy", "ddp_spawn"), "starts its processes as scripts; use ddp")],
)  # fmt: skip
def test_devices_and_strategies_that_cannot_be_had(tmp_path, flags, said):
    ended = train(*tiny(tmp_path, "--trainer.devices", "2", *flags))
    assert said in ended.error and not list(tmp_path.iterdir())


def impatient() -> None:
    from src.training import processes

    processes.PATIENCE = 1


def test_a_process_that_cannot_reach_the_first(tmp_path):
    port = free_port()
    (alone,) = start(tiny(tmp_path, *TWO), TORCHRUN[1:], lambda rank: (impatient,), port)
    error = alone.end(60).error
    assert (
        f"process 1 of 2 did not meet the others at 127.0.0.1:{port} (" in error
        and "check MASTER_ADDR" in error
    )


def test_a_process_that_dies_ends_the_others(tmp_path):
    ended = launch(
        tiny(tmp_path, *TWO), TORCHRUN, lambda rank: stop_at(14, signal.SIGKILL) if rank else ()
    )
    assert "another process of this training has ended" in ended[0].error and ended[1].code == -9
    assert (
        f"{run_in(tmp_path) / 'checkpoints' / 'last.ckpt'} is intact; go on with --resume"
        in ended[0].error
    )
