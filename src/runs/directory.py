"""Create, find and lock run directories.

A run lives in `<runs>/<name>/version_<n>/`: config.yaml, TensorBoard events, metrics.csv,
checkpoints/{last,best}.ckpt and, once it is finished, results.json.
"""

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
    try:
        parent.mkdir(parents=True, exist_ok=True)
        versions = [path.name.removeprefix("version_") for path in parent.glob("version_*")]
        number = 1 + max((int(version) for version in versions if version.isdigit()), default=-1)
        while True:
            try:
                (parent / f"version_{number}").mkdir()
                return parent / f"version_{number}"
            except FileExistsError:
                number += 1
    except OSError as error:
        raise InputError(
            f"{parent}: cannot create a run directory ({error.strerror}); choose a different --runs"
        ) from None


def lock_run(run: Path) -> IO[str]:
    """Lock the run for this process and delete half-written files; keep the returned file open.

    The operating system releases the lock when the process ends. Data loader workers, which can
    outlive a killed process for a few seconds, do not inherit it.
    """
    try:
        file = open(run / ".lock", "w")
    except OSError as error:
        raise InputError(
            f"{run}: cannot be written to ({error.strerror}); change its permissions"
        ) from None
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


def newest_run(runs: Path, name: str = "*") -> Path:
    """Return the run directory whose last.ckpt was written most recently."""
    found = _newest(runs, f"{name}/version_*/checkpoints/last.ckpt")
    if not found:
        which = "no run" if name == "*" else f"no run named {name!r}"
        names = _folders_of_runs(runs)
        others = f"runs with a checkpoint: {names}; " if names else ""
        raise InputError(
            f"{runs}: {which} has a checkpoint; {others}train first, or pass a checkpoint"
        )
    return found.parent.parent


def find_checkpoint(path: str | None, runs: Path | None = None, flag: str = "--ckpt") -> Path:
    """Return the checkpoint to predict with.

    For a run directory, return best.ckpt if it exists and last.ckpt otherwise.

    Args:
        path: checkpoint, run directory, `<runs>/<name>` folder, or a name in `BUNDLED`; None for
            the newest run.
        runs: parent directory of all runs; None for data/runs or, if it has no run, the bundled
            network for MNIST.
        flag: command line flag to mention in error messages.
    """
    parent = runs or Path("data/runs")
    if path is None and runs is None and not _folders_of_runs(parent):
        path = "mnist"
    if path in BUNDLED:
        return BUNDLED[path]
    run = newest_run(parent) if path is None else _newest_version(Path(path).expanduser())
    if not run.is_dir():
        return run
    folder = run / "checkpoints" if (run / "checkpoints").is_dir() else run
    for name in ("best.ckpt", "last.ckpt"):
        if (folder / name).is_file():
            return folder / name
    _refuse_folder_of_runs(run, flag)
    return folder / "last.ckpt"


def find_run(resume: str, runs: Path, name: str) -> tuple[Path, Path]:
    """Return the run directory and the checkpoint that `--resume` refers to.

    Args:
        resume: checkpoint, run directory, or `<runs>/<name>` folder; "" for the newest run named
            `name`.
    """
    if not resume:
        run = newest_run(runs, name)
        return run, run / "checkpoints" / "last.ckpt"
    checkpoint = _newest_version(Path(resume).expanduser())
    if checkpoint.is_file() and checkpoint.suffix != ".ckpt":
        raise InputError(
            f"{checkpoint}: not a checkpoint; pass a run directory, or a .ckpt file in one, to "
            "--resume"
        )
    if checkpoint.is_dir():
        checkpoint /= "last.ckpt" if checkpoint.name == "checkpoints" else "checkpoints/last.ckpt"
    if not checkpoint.parent.parent.parent.name:  # a relative path without the run name
        checkpoint = checkpoint.absolute()
    run = checkpoint.parent.parent
    _check_resumable(run, checkpoint, Path(resume).expanduser())
    return run, checkpoint


def _check_resumable(run: Path, checkpoint: Path, given: Path) -> None:
    config = run / "config.yaml"
    if checkpoint.is_file() and config.is_file():
        return
    if checkpoint.is_file():
        raise InputError(
            f"{checkpoint}: cannot be resumed because {config} is missing; keep a checkpoint in "
            "its run directory"
        )
    if config.is_file():
        raise InputError(
            f"{checkpoint}: no such checkpoint: the run stopped before writing one; start again "
            f"with {command('train.py')} --config {config}"
        )
    _refuse_folder_of_runs(given, "--resume")
    raise InputError(f"{checkpoint}: no such checkpoint; check the path given to --resume")


def find_pretrained(source: str) -> str:
    """Return the file that `--model.init_from` refers to.

    Args:
        source: run directory, `<runs>/<name>` folder, which stands for the newest finished run in
            it, or a name in `BUNDLED`. Files and torchvision's models are returned unchanged.

    Raises:
        InputError: no checkpoint was found; the message says which run to train or resume.
    """
    if source in BUNDLED:
        return str(BUNDLED[source])
    path = Path(source).expanduser()
    is_name = not path.suffix and not source.startswith(TORCHVISION_PREFIX)
    return str(_find_finished(source)) if path.is_dir() or is_name else source


def _find_finished(path: str) -> Path:
    folder = Path(path).expanduser()
    finished = _newest(folder, "version_*/results.json")
    stopped = _newest_version(folder)
    if not finished and stopped != folder:
        raise InputError(
            f"{path}: none of its runs is finished; run {command('train.py')} --resume "
            f"{stopped}, or pass {stopped} to use it unfinished"
        )
    checkpoint = find_checkpoint(str(finished.parent if finished else folder))
    if checkpoint.is_file():
        return checkpoint
    config = Path("configs", f"{folder.name}.yaml")
    if (ROOT / config).is_file():  # `--config` finds it from any folder
        raise InputError(
            f"{path}: no checkpoint found; train a model first with "
            f"{command('train.py')} --config {config}"
        )
    raise InputError(f"{path}: no checkpoint found; check the path")


def _newest(folder: Path, pattern: str) -> Path | None:
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns, default=None)


def _newest_version(path: Path) -> Path:
    """Return the newest run in a `<runs>/<name>` folder; return other paths unchanged."""
    checkpoint = _newest(path, "version_*/checkpoints/last.ckpt")
    return checkpoint.parent.parent if checkpoint else path


def _folders_of_runs(runs: Path) -> str:
    """Return the folders directly under `runs` that contain a run with a checkpoint."""
    checkpoints = runs.glob("*/version_*/checkpoints/last.ckpt")
    return ", ".join(sorted({str(path.parents[2]) for path in checkpoints}))


def _refuse_folder_of_runs(path: Path, flag: str) -> None:
    if names := _folders_of_runs(path):
        raise InputError(
            f"{path} contains runs with different names; pass one of these to {flag}: {names}"
        )
