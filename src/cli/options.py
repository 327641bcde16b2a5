"""Options of `train.py` that select the base configuration."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from src.errors import ROOT, ArgumentParser, InputError, one_line
from src.runs.checkpoint import Checkpoint
from src.runs.directory import find_run

DEFAULT_CONFIG = "configs/mnist.yaml"
RUNS = "data/runs"


@dataclass(frozen=True)
class Base:
    """The base configuration of a training run.

    Attributes:
        config: path of the YAML file; flags override its values.
        tree: content of the YAML file.
        name: run name.
        runs: parent directory of all runs.
        resumed: run directory and checkpoint to resume from; None for a new run.
        flags: remaining command-line flags.
    """

    config: str
    tree: dict[str, Any]
    name: str
    runs: Path
    resumed: tuple[Path, Checkpoint] | None
    flags: list[str]


def read_base(args: list[str]) -> Base:
    """Read the base configuration; a resumed run uses its own config.yaml instead of `--config`.

    Raises:
        InputError: the config, the name or the run to resume is invalid.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-c")
    parser.add_argument("--name")
    parser.add_argument("--runs")
    parser.add_argument("--resume", nargs="?", const="")
    given, flags = parser.parse_known_args(args)
    config = _find_config(given.config or DEFAULT_CONFIG)
    tree = read_yaml(config)
    name = given.name
    if name is None:
        name = str(tree.get("name") or Path(config).stem)
    if not re.fullmatch(r"\w[\w.+=, -]*", name):
        raise InputError(
            f"{name}: not a valid run name; set --name to letters, digits, spaces, and _ - . + = ,"
        )
    # `--resume` would take these folders for files or folders of a run.
    if name == "checkpoints" or name.endswith(".ckpt"):
        raise InputError(f"{name}: reserved for the files of a run; choose a different --name")
    runs = _runs_folder(given.runs, tree)
    if given.resume is None:
        return Base(config, tree, name, runs, None, flags)
    run, path = find_run(given.resume, runs, name)
    if (given.name or given.config) and name != run.parent.name:
        flag = f"--name {name}" if given.name else f"--config {given.config}"
        raise InputError(
            f"{flag}: {run} is a run of {run.parent.name!r}; omit {flag.split()[0]}, because a "
            "resumed run keeps its name and config"
        )
    resumed = (run, Checkpoint.open(path))
    saved = str(run / "config.yaml")
    tree = read_yaml(saved)
    return Base(
        saved,
        tree,
        run.parent.name,
        _runs_folder(given.runs, tree),
        resumed,
        flags,
    )


def _runs_folder(given: str | None, tree: dict[str, Any]) -> Path:
    return Path(given or str(tree.get("runs") or RUNS))


def _find_config(config: str) -> str:
    for path in (Path(config), ROOT / config):  # works from any working directory
        if path.is_file():
            return str(path)
    known = sorted((ROOT / "configs").glob("*.yaml"))
    names = ", ".join(f"configs/{path.name}" for path in known)
    raise InputError(f"{config}: no such config; choose one of {names}")


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("aliases (*name) are not supported")
        return super().compose_node(parent, index)


def read_yaml(config: str) -> dict[str, Any]:
    """Return the content of a YAML file.

    Raises:
        InputError: the file cannot be read, is not a mapping, or uses aliases (which let a few
            bytes expand until memory runs out).
    """
    try:
        tree = yaml.load(Path(config).read_text(), _Loader) or {}
        if not isinstance(tree, dict):
            raise ValueError(f"it has no keys; see {DEFAULT_CONFIG} for an example")
        if dotted := [key for key in tree if "." in str(key)]:
            raise ValueError(f"{dotted[0]}: nest keys instead of writing dots")
        return tree
    except OSError as error:
        raise InputError(
            f"{config}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from None
    except (ValueError, RecursionError, yaml.YAMLError, TypeError) as error:
        reason = one_line(error, 500)
        raise InputError(f"{config}: invalid config: {reason}; correct the file") from None
