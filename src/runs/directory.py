"""Create, find and lock run directories.

A run lives in `<runs>/<name>/version_<n>/`: config.yaml, TensorBoard events, metrics.csv,
checkpoints/{last,best}.ckpt and, once it is finished, results.json.
"""

import contextlib
import itertools
from pathlib import Path
from typing import IO

from src.errors import ROOT, InputError, command
from src.runs.weights_file import BUNDLED

TORCHVISION_PREFIX = "torchvision:"

try:
    import fcntl
except ImportError:  # on Windows, two processes can resume the same run
    fcntl = None  # type: ignore[assignment]


def create_run(runs: Path, name: str) -> Path:
    """Create the next `version_<n>` folder; concurrent processes get different numbers."""
    parent = runs / name
    parent.mkdir(parents=True, exist_ok=True)
    versions = [path.name.removeprefix("version_") for path in parent.glob("version_*")]
    newest = max((int(version) for version in versions if version.isdigit()), default=-1)
    for number in itertools.count(newest + 1):
        run = parent / f"version_{number}"
        with contextlib.suppress(FileExistsError):
            run.mkdir()
            break
    return run


def lock_run(run: Path) -> IO[str]:
    """Lock the run for this process and delete half-written files; keep the returned file open.

    The operating system releases the lock when the process ends. Data loader workers, which can
    outlive a killed process for a few seconds, do not inherit it.
    """
    file = open(run / ".lock", "w")
    if fcntl:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"{run}: another process is training this run; wait for it, or stop it first"
            ) from None
    for leftover in (*run.glob(".*.tmp"), *run.glob("checkpoints/.*.tmp")):
        leftover.unlink(missing_ok=True)
    return file


def find_checkpoint(path: str | None) -> Path:
    """Return the checkpoint to predict with.

    For a run directory, return best.ckpt if it exists and last.ckpt otherwise.

    Args:
        path: checkpoint, run directory, folder of runs (the newest is used), or a name in
            `BUNDLED`; None for the newest run in data/runs or, without one, the bundled network for
            MNIST.

    Raises:
        InputError: the folder contains no run with a checkpoint.
    """
    if path is None:
        path = "data/runs" if _newest_run(Path("data/runs")) else "mnist"
    if path in BUNDLED:
        return BUNDLED[path]
    given = Path(path).expanduser()
    if not given.is_dir():
        return given
    run = _newest_run(given) or given
    for folder in (run / "checkpoints", run):
        for name in ("best.ckpt", "last.ckpt"):
            if (folder / name).is_file():
                return folder / name
    raise InputError(f"{given}: no run with a checkpoint found; train first, or pass a checkpoint")


def find_run(resume: str, runs: Path, name: str) -> tuple[Path, Path]:
    """Return the run directory and the checkpoint that `--resume` refers to.

    Args:
        resume: checkpoint, run directory, or folder of runs (the newest is used); "" for the newest
            run named `name`.
        runs: parent directory of all runs.

    Raises:
        InputError: there is no run with a checkpoint.
    """
    given = Path(resume).expanduser() if resume else runs / name
    checkpoint = given
    if given.suffix != ".ckpt":
        run = _newest_run(given.parent if given.name == "checkpoints" else given)
        if not run:
            remedy = "check the path" if resume else "start one without --resume"
            raise InputError(f"{given}: no run with a checkpoint found; {remedy}")
        checkpoint = run / "checkpoints" / "last.ckpt"
    if not checkpoint.parent.parent.parent.name:  # a relative path without the run name
        checkpoint = checkpoint.absolute()
    return checkpoint.parent.parent, checkpoint


def find_pretrained(source: str) -> str:
    """Return the file that `--model.init_from` refers to.

    Args:
        source: run directory, folder of runs (the newest finished run is used), or a name in
            `BUNDLED`. Other files and torchvision's models are returned unchanged.

    Raises:
        InputError: no checkpoint was found; the message says which run to train or resume.
    """
    if source in BUNDLED:
        return str(BUNDLED[source])
    folder = Path(source).expanduser()
    is_file_name = folder.suffix or source.startswith(TORCHVISION_PREFIX)
    if is_file_name and not folder.is_dir():
        return source
    if finished := _newest_run(folder, "results.json"):
        return str(find_checkpoint(str(finished)))
    run = _newest_run(folder)
    if not run:
        advice = f"check the path, or use bundled weights ({', '.join(sorted(BUNDLED))})"
        config = Path("configs", f"{folder.name}.yaml")
        if (ROOT / config).is_file():
            advice = f"train it first with {command('train.py')} --config {config}"
        raise InputError(f"{source}: no run with a checkpoint found; {advice}")
    if run != folder:
        raise InputError(
            f"{source}: none of its runs is finished; run {command('train.py')} --resume {run}, or "
            f"pass {run} to use it unfinished"
        )
    return str(find_checkpoint(source))


def _newest_run(folder: Path, file: str = "checkpoints/last.ckpt") -> Path | None:
    """Return the run directory in a folder (or the folder itself) with the newest `file`."""
    for runs in ([folder], folder.glob("version_*"), folder.glob("*/version_*")):
        if found := [run for run in runs if (run / file).exists()]:
            return max(found, key=lambda run: (run / file).stat().st_mtime_ns)
    return None
