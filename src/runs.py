"""Run directories, what `--resume` means, and the safe loading and writing of checkpoints.

A run lives in `<runs>/<name>/version_<n>/`: config.yaml, TensorBoard events, metrics.csv, checkpoints/{last,best}.ckpt
and, once it is finished, results.json.
"""

import os
from pathlib import Path

import torch
import yaml

from src.errors import InputError

try:
    import fcntl
except ImportError:  # Windows has no flock: there, two processes can resume the same run
    fcntl = None

# What may differ when a run is resumed: how long and how it runs, not what is learnt. All else must be as it was.
MAY_CHANGE = (
    "config", "name", "resume", "runs", "patience", "checkpoint_every_n_steps", "trainer.max_epochs",
    "trainer.max_time", "trainer.enable_progress_bar", "trainer.log_every_n_steps", "trainer.accelerator",
    "trainer.devices", "data.init_args.root", "data.init_args.workers", "data.init_args.eval_batch_size",
    "data.init_args.memory_budget", "model.init_args.compile",
)  # fmt: skip


def load_checkpoint(path: str | Path) -> dict:
    """Open one of our checkpoints without running anything it may hold (`weights_only=True`).

    Raises:
        InputError: the file is missing, damaged, or none of ours.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a directory; name a checkpoint in it, for example {path}/checkpoints/best.ckpt")
    if not path.is_file():
        raise InputError(f"{path}: there is no such checkpoint; check the path, or train first: python train.py")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        hparams = checkpoint["hyper_parameters"]
        hparams["network"]["kind"], hparams["dataset"]["classes"], checkpoint["state_dict"].keys()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; check its permissions") from None
    except (KeyError, TypeError, AttributeError, IndexError):
        raise InputError(f"{path}: is no checkpoint of this program; name a .ckpt that train.py wrote") from None
    except Exception:  # a damaged or hostile file can fail anywhere in the unpickler
        raise InputError(
            f"{path}: damaged, or no checkpoint of this program (only plain weights are opened, never code); "
            "name a .ckpt that train.py wrote"
        ) from None
    return checkpoint


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file in one step; on failure the old one stays and nothing is left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def new_run(runs: Path, name: str) -> Path:
    """Make the next `version_<n>`; two processes that ask at once get different ones."""
    parent = runs / name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(p.name[8:]) for p in parent.glob("version_*") if p.name[8:].isdigit()), default=-1)
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
    found = list(runs.glob(f"{name}/version_*/checkpoints/{file}.ckpt"))
    if not found:
        which = f"no run named {name!r}" if name != "*" else "no run"
        raise InputError(f"{runs}: {which} has a checkpoint there; train first: python train.py, or name a checkpoint")
    return max(found, key=lambda path: path.stat().st_mtime_ns).parent.parent


def find_checkpoint(path: str | None, runs: Path = Path("data/runs")) -> Path:
    """The checkpoint to classify with: a file, a run directory's best (else last), or the newest run's."""
    run = newest_run(runs) if path is None else Path(path)
    if not run.is_dir():
        return run
    folder = run / "checkpoints" if (run / "checkpoints").is_dir() else run
    best = folder / "best.ckpt"
    return best if best.is_file() else folder / "last.ckpt"


def find_run(resume: str, runs: Path, name: str) -> tuple[Path, Path]:
    """What `--resume` means: (run directory, checkpoint) of a checkpoint's path, a run's path, or the newest `name`."""
    if not resume:
        run = newest_run(runs, name)
        return run, run / "checkpoints" / "last.ckpt"
    path = Path(resume)
    checkpoint = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    run = checkpoint.parent.parent
    if not checkpoint.is_file():
        raise InputError(f"{checkpoint}: there is no such checkpoint to resume from; check the path given to --resume")
    if not (run / "config.yaml").is_file():
        raise InputError(f"{run / 'config.yaml'}: missing, so the run cannot be resumed; keep a checkpoint in its run")
    return run, checkpoint


def lock_run(run: Path):
    """Hold the run for this process; the lock ends with the process, however it ends. Keep the returned file open."""
    file = open(run / ".lock", "w")
    if fcntl:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{run}: another process is training this run; wait for it, or stop it first") from None
    return file


def refuse_changes(run: Path, config: dict) -> None:
    """Raise InputError when `config` would not continue the run in `run` but turn it into another one."""
    before, now = flatten(yaml.safe_load((run / "config.yaml").read_text()) or {}), flatten(config)
    changed = [
        f"{key.replace('init_args.', '')} (was {before.get(key)}, now {now.get(key)})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not any(key == k or key.startswith(f"{k}.") for k in MAY_CHANGE)
    ]
    if changed:
        raise InputError(f"{run}: cannot be resumed with other settings: {'; '.join(changed)}; start a new run instead")


def flatten(tree: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
