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

from src.runs.results import read_results

SUPPORT = ROOT / "tests" / "support"
RUN = "runs/digits/version_0"
COMMANDS = {
    "stop": ["train.py", *tiny("runs", "--pictures", "true", epochs=2)],
    "resume": ["train.py", "--resume", RUN],
    "classify a file": ["classify.py", "one.png", "--ckpt", RUN, "--json"],
    "classify a test image": ["classify.py", "--index", 0, "--ckpt", RUN, "--json"],
    "model.init_from": ["train.py", *tiny("more", "--model.init_from", RUN)],
    "--serve": ["classify.py", "--ckpt", RUN, "--serve"],
    "--show": ["classify.py", "one.png", "--ckpt", RUN, "--show", "given.png"],
}
# All commands run in one process, because starting another takes seconds.
SCRIPT = f"""
import classify, json, program, signal, sys, train
program.at_step({STEPS + STEPS // 2}, program.send, signal.SIGTERM)
mains = {{"train.py": train.main, "classify.py": classify.main}}
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
def ended(core) -> dict[str, Ended]:
    """Run all commands in the checkout; the first one stops in the second of two epochs."""
    commands = json.dumps(list(COMMANDS.values()), default=str)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, commands],
        cwd=core,
        env=os.environ | {"PYTHONPATH": str(SUPPORT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done
    results = json.loads(done.stdout.splitlines()[-1])
    return {name: Ended(*result) for name, result in zip(COMMANDS, results, strict=True)}


def test_training_stops_resumes_and_finishes(core, ended):
    assert ended["stop"].code == 128 + signal.SIGTERM, ended["stop"]
    assert ended["stop"].err == "note: src/extras is missing; skipping pictures and report\n"
    assert ended["resume"].code == 0, ended["resume"]
    results = read_results(core / RUN)
    assert results["epochs"] == 2
    assert results["images_seen"] == 2 * STEPS * 128
    assert 0.1 < results["test_accuracy"] < 1
    assert not (core / RUN / "report.html").exists()


@pytest.mark.parametrize(
    ("command", "path"),
    [("classify a file", "one.png"), ("classify a test image", "digits test image 0")],
)
def test_files_and_test_images_are_classified(ended, command, path):
    assert ended[command].code == 0, ended[command]
    (row,) = json.loads(ended[command].out)
    assert row["path"] == path
    assert len(row["predictions"]) == 3


@pytest.mark.parametrize("flag", ["model.init_from", "--serve", "--show"])
def test_only_the_flags_of_extras_need_the_folder(core, ended, flag):
    result = ended[flag]
    assert flag in result.error
    assert "src/extras" in result.error
    assert "missing" in result.error
    assert result.out == ""
    assert not (core / "more").exists()
    assert not (core / "given.png").exists()
