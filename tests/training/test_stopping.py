"""Test that a stopped run saves last.ckpt and prints how to resume."""

import os
import signal

import pytest
from program import Running, at_step, send, started, stop_at, tiny, train

from src.runs.checkpoint import load

CTRL_C = (130, "", "error: stopped by Ctrl-C\n")


@pytest.mark.parametrize(
    ("number", "name", "step"),
    [
        (signal.SIGTERM, "SIGTERM", 4),  # in the middle of an epoch
        (signal.SIGINT, "Ctrl-C", 10),  # at the end of an epoch
        (signal.SIGTERM, "SIGTERM", 20),  # at the end of training
    ],
)
def test_a_signal_stops_after_the_step(made, last, tmp_path, number, name, step):
    ended = train(*tiny(tmp_path, epochs=2), prepare=stop_at(step, number))
    assert ended.code == 128 + number, ended
    assert ended.err == ""
    assert f"{name}: stopping after this step; repeat to stop immediately" in ended.out
    assert ended.out.endswith(
        f"Stopped by {name}. Saved {last}; resume with:\n  python train.py --resume {made}\n"
    )
    assert load(last)["global_step"] == step


def test_a_second_signal_stops_immediately(last, tmp_path):
    twice = stop_at(4, signal.SIGTERM, signal.SIGINT)
    assert train(*tiny(tmp_path), prepare=twice).code == 130
    assert not last.exists()


def signal_the_group_at(step: int) -> None:
    os.setsid()
    at_step(step, os.killpg, 0, signal.SIGTERM)


def test_a_signal_to_the_workers_too(last, tmp_path):
    """Ctrl-C in a terminal reaches the whole process group."""
    arguments = tiny(tmp_path, "--data.workers=2")
    ended = train(*arguments, prepare=(signal_the_group_at, 14))
    assert ended.code == 143, ended
    assert ended.out.count("stopping after this step") == 1
    assert load(last)["global_step"] == 14


def stop_while_testing() -> None:
    from src.training.classifier import Classifier

    Classifier.on_test_epoch_end = lambda self: send(signal.SIGTERM)


def test_a_signal_during_the_test(made, tmp_path):
    ended = train(*tiny(tmp_path, epochs=1), prepare=(stop_while_testing,))
    assert ended.code == 143, ended
    assert "resume with" in ended.out
    assert not (made / "results.json").exists()
    assert train("--resume", made).code == 0
    assert (made / "results.json").exists()


def stop_while_reading() -> None:
    from src.data.image_data import ImageDataModule

    ImageDataModule.prepare_data = lambda self: send(signal.SIGINT)


def test_ctrl_c_before_the_training(tmp_path):
    assert train(*tiny(tmp_path), prepare=(stop_while_reading,)) == CTRL_C


@pytest.mark.parametrize("script", ["train.py", "classify.py"])
def test_ctrl_c_during_imports(tmp_path, script):
    """A fake torch module sends SIGINT, because users can press Ctrl-C during the slow import."""
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
    (tmp_path / "torch.py").write_text(code)
    assert started(script, "x.png", PYTHONPATH=str(tmp_path)) == CTRL_C


def test_max_time(last, tmp_path):
    arguments = tiny(tmp_path, "--trainer.max_time=00:00:00:01", epochs=1000)
    ended = train(*arguments)
    assert ended.code == 0, ended
    assert "Stopped by max_time." in ended.out
    assert last.exists()


# Several processes --------------------------------------------------------------------------------


def test_a_run_is_locked_while_it_is_trained(made, last, tmp_path):
    """While one process waits at step 14, a second process tries to resume the same run."""
    first = Running(*tiny(tmp_path), prepare=(at_step, 14, signal.pause))
    try:
        while not last.exists():
            assert first.process.is_alive()
            first.process.join(0.05)
        message = f"{made}: another process is training this run"
        assert message in train("--resume", made).error
        second = train(*tiny(tmp_path, epochs=1))  # starts a new run with the same name
        assert second.code == 0, second
        assert "version_1" in second.out
    finally:
        first.process.kill()
    assert first.end().code == -signal.SIGKILL
    assert train("--resume", made, "--trainer.max_epochs=2").code == 0
