"""Test the core without src/extras/, and the error messages of flags that need this folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from photos import ONE, written
from program import ROOT, STEPS, Ended, tiny

SUPPORT = ROOT / "tests" / "support"
STOP = f"""
import program, runpy, signal, sys
program.at_step({STEPS + STEPS // 2}, program.send, signal.SIGTERM)
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""
CALLS = """
import classify, json, program, sys, train
mains = {"train.py": train.main, "classify.py": classify.main}
commands = json.loads(sys.argv[1])
print(json.dumps([program.call(mains[script], *args) for script, *args in commands]))
"""


@pytest.fixture(scope="module")
def core(tmp_path_factory) -> Path:
    """A checkout without src/extras/, plus an image of a digit."""
    folder = tmp_path_factory.mktemp("core")
    ignored = shutil.ignore_patterns("extras", "__pycache__")
    for name in ("src", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("train.py", "classify.py"):
        shutil.copy(ROOT / name, folder)
    written(ONE, (60, 60), 5).save(folder / "one.png")
    return folder


@pytest.fixture(scope="module")
def run(core) -> Path:
    """A two-epoch run that was stopped in the middle of the second epoch and then resumed."""
    arguments = tiny(core / "runs", "--pictures", "true", epochs=2)
    stopped = python(core, "-c", STOP, *arguments)
    assert stopped.code == 128 + signal.SIGTERM, stopped
    assert stopped.err == "note: src/extras is missing; skipping pictures and report\n"
    folder = core / "runs" / "digits" / "version_0"
    assert not (folder / "results.json").exists()
    resumed = python(core, "train.py", "--resume", folder)
    assert resumed.code == 0, resumed
    return folder


def python(folder: Path, *args) -> Ended:
    """Run Python with a folder as the working directory, from which it imports `src`."""
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(SUPPORT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def call(folder: Path, *commands) -> list[Ended]:
    """Run several commands, each a script and its arguments, in one process."""
    words = [[str(word) for word in command] for command in commands]
    ended = python(folder, "-c", CALLS, json.dumps(words))
    assert ended.code == 0, ended
    return [Ended(*values) for values in json.loads(ended.out.splitlines()[-1])]


def test_training_resumes_and_finishes(run):
    results = json.loads((run / "results.json").read_text())
    assert results["epochs"] == 2
    assert results["images_seen"] == 2 * STEPS * 128
    assert 0.1 < results["test_accuracy"] < 1
    assert not (run / "report.html").exists()


def test_files_and_test_images_are_classified(core, run):
    options = ["--ckpt", run, "--json"]
    of_file, of_index = call(
        core,
        ["classify.py", "one.png", *options],
        ["classify.py", "--index", 0, *options],
    )
    for ended, path in ((of_file, "one.png"), (of_index, "digits test image 0")):
        assert ended.code == 0, ended
        (row,) = json.loads(ended.out)
        assert row["path"] == path
        assert len(row["predictions"]) == 3


def test_only_the_flags_of_extras_need_the_folder(core, run):
    classify = ["classify.py", "--ckpt", run]
    train = ["train.py", *tiny(core / "more", epochs=1)]
    commands = {
        "model.init_from": [*train, "--model.init_from", run],
        "--serve": [*classify, "--serve"],
        "--show": [*classify, "one.png", "--show", "given.png"],
        "--attention": [*classify, "one.png", "--attention", "given.png"],
    }
    ended = call(core, *commands.values())
    for flag, result in zip(commands, ended, strict=True):
        assert flag in result.error
        assert "src/extras" in result.error
        assert "missing" in result.error
        assert result.out == ""
    assert not (core / "more").exists()
    assert not (core / "given.png").exists()
