"""Run directories, what `--resume` means, and the safe loading and writing of checkpoints.

A run lives in `<runs>/<name>/version_<n>/`: config.yaml, TensorBoard events, metrics.csv, checkpoints/{last,best}.ckpt
and, once it is finished, results.json.
"""

import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import torch
import yaml
from torch import Tensor

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
    "trainer.limit_test_batches",
)  # fmt: skip


def load_checkpoint(path: str | Path) -> dict:
    """Open one of our checkpoints without running anything it may hold (`weights_only=True`).

    Every tensor it holds is dense, on the CPU, and no larger than the file: none is a small storage seen as a huge one.

    Raises:
        InputError: the file is missing, damaged (a changed bit of its contents is noticed), or none of ours.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a directory; name a checkpoint in it, for example {path}/checkpoints/best.ckpt")
    if not path.is_file():
        raise InputError(f"{path}: there is no such checkpoint; check the path, or train it first")
    try:
        with open(path, "rb") as file:
            _check_zip(file)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        hparams = checkpoint["hyper_parameters"]
        hparams["network"]["kind"], hparams["dataset"]["classes"], checkpoint["state_dict"].keys()
        _check_tensors(checkpoint)
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


def _check_zip(file) -> None:
    """Compare every part with its checksum, which PyTorch leaves out; parts are stored as they are, never packed."""
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
        if packed or sum(part.file_size for part in parts) > file.seek(0, os.SEEK_END) or archive.testzip():
            raise ValueError("damaged")
    file.seek(0)


def _check_tensors(tree) -> None:
    if isinstance(tree, Tensor):
        if tree.layout != torch.strided or tree.device.type != "cpu" or tree.is_quantized:
            raise ValueError("a tensor of another kind than those we write")
        if tree.numel() * tree.element_size() > tree.untyped_storage().nbytes():
            raise ValueError("a tensor larger than its storage")
    elif isinstance(tree, dict | list | tuple):
        for part in tree.values() if isinstance(tree, dict) else tree:
            _check_tensors(part)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file in one step; on failure the old one stays and nothing is left behind.

    Raises:
        InputError: the disk is full, or the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        kept = "the one before it is intact; " if path.exists() else ""
        folder = path.parent if path.parent.is_dir() else Path(".")
        raise InputError(
            f"{path}: could not be written ({error.strerror}): it needs {len(data) / 2**20:.2f} MiB, the disk has "
            f"{shutil.disk_usage(folder).free / 2**20:.2f} MiB free; {kept}make room, then go on with --resume"
        ) from None
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
    found = _newest(runs, f"{name}/version_*/checkpoints/{file}.ckpt")
    if not found:
        which = f"no run named {name!r}" if name != "*" else "no run"
        others = f"those that have one: {names}; " if (names := _names(runs)) else ""
        raise InputError(f"{runs}: {which} has a checkpoint there; {others}train first, or name a checkpoint")
    return found.parent.parent


def _newest(folder: Path, pattern: str) -> Path | None:
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns, default=None)


def _names(runs: Path) -> str:
    """The folders of a name's runs in `runs`, of those names of which a run has a checkpoint."""
    return ", ".join(sorted({str(path.parents[2]) for path in runs.glob("*/version_*/checkpoints/last.ckpt")}))


def _refuse_folder_of_names(path: Path, flag: str) -> None:
    if names := _names(path):
        raise InputError(f"{path}: is a folder of runs by name; give {flag} one of these: {names}")


def find_checkpoint(path: str | None, runs: Path = Path("data/runs")) -> Path:
    """The checkpoint to classify with: a file, a run directory's best (else last), or the newest run's."""
    run = newest_run(runs) if path is None else _newest_in(Path(path).expanduser())
    if not run.is_dir():
        return run
    folder = run / "checkpoints" if (run / "checkpoints").is_dir() else run
    for name in ("best.ckpt", "last.ckpt"):
        if (folder / name).is_file():
            return folder / name
    _refuse_folder_of_names(run, "--ckpt")
    return folder / "last.ckpt"


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
        raise InputError(f"{checkpoint}: is no checkpoint; give --resume a run directory, or a .ckpt file in one")
    if checkpoint.is_dir():
        checkpoint /= "last.ckpt" if checkpoint.name == "checkpoints" else "checkpoints/last.ckpt"
    if not checkpoint.parent.parent.parent.name:  # given from within the run: the names of its folders are needed
        checkpoint = checkpoint.absolute()
    run = checkpoint.parent.parent
    if not checkpoint.is_file() and (run / "config.yaml").is_file():
        raise InputError(
            f"{checkpoint}: there is no such checkpoint: the run was stopped before its first; begin again with "
            f"python train.py --config {run / 'config.yaml'}"
        )
    if not checkpoint.is_file():
        _refuse_folder_of_names(Path(resume).expanduser(), "--resume")
        raise InputError(f"{checkpoint}: there is no such checkpoint to resume from; check the path given to --resume")
    if not (run / "config.yaml").is_file():
        raise InputError(
            f"{checkpoint}: cannot be resumed, because {run / 'config.yaml'} is missing; keep a checkpoint in its run"
        )
    return run, checkpoint


def lock_run(run: Path):
    """Hold the run for this process, and clear away what a killed one left half written. Keep the returned file open.

    The lock ends with the process, however it ends. The workers of a data loader do not share it: one that outlives a
    killed training for a few seconds does not keep the run from being resumed.
    """
    try:
        file = open(run / ".lock", "w")
    except OSError as error:
        raise InputError(f"{run}: cannot be written to: {error.strerror}; change its permissions") from None
    if fcntl:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{run}: another process is training this run; wait for it, or stop it first") from None
    for leftover in (*run.glob(".*.tmp"), *run.glob("checkpoints/.*.tmp")):
        leftover.unlink(missing_ok=True)
    return file


def take_up(run: Path, path: Path, settings: dict, module, trainer) -> None:
    """See that the run can go on from the checkpoint at `path`, and that there is something left to do.

    When all is trained but not yet tested, `trainer` is told to train nothing more. When that is done, too, this says
    so, and ends the program.

    Raises:
        InputError: the settings have changed, or the checkpoint is not one of this model.
    """
    _refuse_changes(run, settings)
    checkpoint = load_checkpoint(path)
    _refuse_misfit(path, checkpoint, module, trainer.fit_loop.state_dict())
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    why = _why_finished(checkpoint, epochs, settings["trainer"]["max_epochs"], settings["patience"])
    if why and _epochs_tested(run) == epochs:
        print(f"Nothing to do: {run} is finished. {why}")
        raise SystemExit(0)
    if why:
        trainer.fit_loop.max_epochs = epochs


def _refuse_changes(run: Path, settings: dict) -> None:
    """Raise InputError when the settings would not continue the run but turn it into another one."""
    before, now = flatten(yaml.safe_load((run / "config.yaml").read_text()) or {}), flatten(settings)
    changed = [
        f"{key.replace('init_args.', '')} (was {value}, now {now.get(key)})"
        for key, value in sorted(before.items())
        if value != now.get(key) and not any(key == k or key.startswith(f"{k}.") for k in MAY_CHANGE)
    ]
    if changed:
        raise InputError(f"{run}: cannot be resumed with other settings: {'; '.join(changed)}; start a new run instead")


def _refuse_misfit(path: Path, checkpoint: dict, module, loops: dict) -> None:
    """Raise InputError unless the checkpoint is one of this very model, and complete.

    Args:
        module: the LightningModule to be trained.
        loops: `state_dict` of the trainer's fit loop, as an example of what the checkpoint's must look like.
    """
    before, now = (flatten(dict(h)) for h in (checkpoint["hyper_parameters"], module.hparams))
    changed = [
        f"{key} (was {before.get(key)}, now {now.get(key)})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key != "dataset.root"
    ]
    if changed:
        raise InputError(
            f"{path}: cannot be resumed, its model or data have changed: {'; '.join(changed)[:300]}; "
            "bring back what they were, or start a new run"
        )
    try:
        optimizer = module.configure_optimizers()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        (state,) = checkpoint["optimizer_states"]
        moments = [(m, parameters[i].shape) for i, kept in state["state"].items() for m in kept.values()]
        fits = (
            _like(checkpoint["state_dict"], module.state_dict())
            and _like(checkpoint["loops"]["fit_loop"], loops)
            and _like(state["param_groups"], optimizer.state_dict()["param_groups"])
            and all(m.shape in (shape, ()) for m, shape in moments if isinstance(m, Tensor))
            and isinstance(checkpoint["callbacks"]["Checkpoints"]["validated"], dict)
            and all(isinstance(checkpoint[key], int) for key in ("epoch", "global_step", "total_steps"))
            and re.fullmatch(r"\d+(\.\d+)+\w*", checkpoint["pytorch-lightning_version"])
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        fits = False
    if not fits:
        raise InputError(f"{path}: does not fit this run's model, or is incomplete; resume from its other checkpoint")


def _like(found, example) -> bool:
    """Whether two trees have the same keys, tensors of the same shape and type, and values of the same type."""
    if isinstance(example, dict):
        same = isinstance(found, dict) and found.keys() == example.keys()
        return same and all(_like(found[key], example[key]) for key in example)
    if isinstance(example, list):
        return isinstance(found, list) and len(found) == len(example) and all(map(_like, found, example))
    if isinstance(example, Tensor):
        return isinstance(found, Tensor) and (found.shape, found.dtype) == (example.shape, example.dtype)
    return type(found) is type(example)


def _why_finished(checkpoint: dict, epochs: int, max_epochs: int, patience: int | None) -> str | None:
    """Why there is nothing left to train, and the flag that trains longer; None if there is."""
    if epochs >= max_epochs:
        return f"All of its {epochs} epochs are trained; to train longer, add --trainer.max_epochs {2 * epochs}"
    stopping = [state for key, state in checkpoint["callbacks"].items() if key.startswith("EarlyStopping")]
    waited = stopping[0]["wait_count"] if stopping else 0
    if patience and waited >= patience:
        without = f"the last {waited} without a better validation accuracy"
        return f"It stopped after {epochs} epochs, {without}; to train longer, add --patience {2 * waited}"
    return None


def _epochs_tested(run: Path) -> int | None:
    """The epochs that results.json is about; None if there is none that can be read."""
    try:
        return json.loads((run / "results.json").read_text())["epochs"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def flatten(tree: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
