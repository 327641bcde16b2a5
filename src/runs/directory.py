"""Run directories: making one, finding one, and holding one for this process.

A run lives in `<runs>/<name>/version_<n>/`: config.yaml, TensorBoard events, metrics.csv, checkpoints/{last,best}.ckpt
and, once it is finished, results.json.
"""

from pathlib import Path
from typing import IO

from src.errors import InputError

try:
    import fcntl
except ImportError:  # Windows has no flock: there, two processes can resume the same run
    fcntl = None


def new_run(runs: Path, name: str) -> Path:
    """Make the next `version_<n>`; two processes that ask at once get different ones."""
    parent = runs / name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = 1 + max(
            (int(p.name[8:]) for p in parent.glob("version_*") if p.name[8:].isdigit()), default=-1
        )
        while True:
            try:
                (parent / f"version_{number}").mkdir()
                return parent / f"version_{number}"
            except FileExistsError:
                number += 1
    except OSError as error:
        raise InputError(
            f"{parent}: cannot make a run directory there: {error.strerror}; choose another --runs"
        ) from None


def newest_run(runs: Path, name: str = "*", file: str = "last") -> Path:
    """The run directory whose `checkpoints/<file>.ckpt` was written last."""
    found = _newest(runs, f"{name}/version_*/checkpoints/{file}.ckpt")
    if not found:
        which = f"no run named {name!r}" if name != "*" else "no run"
        others = f"those that have one: {names}; " if (names := _names(runs)) else ""
        raise InputError(
            f"{runs}: {which} has a checkpoint there; {others}train first, or name a checkpoint"
        )
    return found.parent.parent


def _newest(folder: Path, pattern: str) -> Path | None:
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns, default=None)


def _names(runs: Path) -> str:
    """The folders of a name's runs in `runs`, of those names of which a run has a checkpoint."""
    return ", ".join(
        sorted({str(path.parents[2]) for path in runs.glob("*/version_*/checkpoints/last.ckpt")})
    )


def _refuse_folder_of_names(path: Path, flag: str) -> None:
    if names := _names(path):
        raise InputError(f"{path}: is a folder of runs by name; give {flag} one of these: {names}")


def find_checkpoint(path: str | None, runs: Path = Path("data/runs"), flag: str = "--ckpt") -> Path:
    """The checkpoint to classify with: a file, a run directory's best (else last), or the newest run's.

    `flag` is what `path` was given to, for messages.
    """
    run = newest_run(runs) if path is None else _newest_in(Path(path).expanduser())
    if not run.is_dir():
        return run
    folder = run / "checkpoints" if (run / "checkpoints").is_dir() else run
    for name in ("best.ckpt", "last.ckpt"):
        if (folder / name).is_file():
            return folder / name
    _refuse_folder_of_names(run, flag)
    return folder / "last.ckpt"


def find_trained(path: str) -> Path:
    """The checkpoint to start another training from: that of a run, or of the newest finished run of a name.

    Raises:
        InputError: there is none; the line says what to train first, where a config has the name of the folder, or
            which run to go on with.
    """
    folder = Path(path).expanduser()
    finished = _newest(folder, "version_*/results.json")
    if not finished and (stopped := _newest_in(folder)) != folder:
        go_on = f"go on with it: python train.py --resume {stopped}"
        raise InputError(f"{path}: no run there is finished; {go_on}; or give {stopped} itself")
    checkpoint = find_checkpoint(str(finished.parent if finished else folder))
    if checkpoint.is_file():
        return checkpoint
    config = Path("configs", f"{folder.name}.yaml")
    first = (
        f"train it first: python train.py --config {config}"
        if config.is_file()
        else "check the path"
    )
    raise InputError(f"{path}: there is no trained run; {first}")


def _newest_in(path: Path) -> Path:
    """The folder of all runs of a name stands for the newest of them; any other path for itself."""
    checkpoint = _newest(path, "version_*/checkpoints/last.ckpt")
    return checkpoint.parent.parent if checkpoint else path


def find_run(resume: str, runs: Path, name: str) -> tuple[Path, Path]:
    """What `--resume` means: (run directory, checkpoint) of a checkpoint's path, a run's path, or the newest `name`."""
    if not resume:
        run = newest_run(runs, name)
        return run, run / "checkpoints" / "last.ckpt"
    checkpoint = _newest_in(Path(resume).expanduser())
    if checkpoint.is_file() and checkpoint.suffix != ".ckpt":
        raise InputError(
            f"{checkpoint}: not a checkpoint; give --resume a run directory, or a .ckpt file in one"
        )
    if checkpoint.is_dir():
        checkpoint /= "last.ckpt" if checkpoint.name == "checkpoints" else "checkpoints/last.ckpt"
    if (
        not checkpoint.parent.parent.parent.name
    ):  # given from within the run: the names of its folders are needed
        checkpoint = checkpoint.absolute()
    run = checkpoint.parent.parent
    if not checkpoint.is_file() and (run / "config.yaml").is_file():
        raise InputError(
            f"{checkpoint}: there is no such checkpoint: the run was stopped before its first; begin again with "
            f"python train.py --config {run / 'config.yaml'}"
        )
    if not checkpoint.is_file():
        _refuse_folder_of_names(Path(resume).expanduser(), "--resume")
        raise InputError(
            f"{checkpoint}: there is no such checkpoint to resume from; check the path given to --resume"
        )
    if not (run / "config.yaml").is_file():
        raise InputError(
            f"{checkpoint}: cannot be resumed, because {run / 'config.yaml'} is missing; keep a checkpoint in its run"
        )
    return run, checkpoint


def claim_run(runs: Path, name: str, resumed: Path | None) -> tuple[Path, IO]:
    """Make the run directory, or find the resumed one unchanged, and lock it: the directory, and the lock to keep."""
    run = resumed or new_run(runs, name)
    return run, lock_run(run)


def lock_run(run: Path):
    """Hold the run for this process, and clear away what a killed one left half written. Keep the returned file open.

    The lock ends with the process, however it ends. The workers of a data loader do not share it: one that outlives a
    killed training for a few seconds does not keep the run from being resumed.
    """
    try:
        file = open(run / ".lock", "w")
    except OSError as error:
        raise InputError(
            f"{run}: cannot be written to: {error.strerror}; change its permissions"
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
