"""Reject unknown keys and null values, and shorten jsonargparse's messages to one line."""

import difflib
import functools
import re
from collections.abc import Iterable
from typing import Any, get_args

from jsonargparse import ArgumentParser, Namespace

from src.cli.options import Base
from src.data.modules import FolderDataModule, NamedDataModule
from src.errors import InputError
from src.training.classifier import CNN, ViT

HELP = "see --help"
GROUPS: dict[str, dict[str, type]] = {
    "model": {"ViT": ViT, "CNN": CNN},
    "data": {kind.__name__: kind for kind in (*NamedDataModule.__subclasses__(), FolderDataModule)},
}
LINKED = {"dataset", "seed"}  # arguments set by the program, not by the user
FLAGS_ONLY = {"help", "print_config", "model.help", "data.help"}


def check_keys(base: Base, parser_keys: Iterable[str]) -> None:
    """Raise InputError for the first unknown key in the config or the flags, with a suggestion.

    jsonargparse gives no suggestions and ignores some unknown flags (`--data.augment.rotat`).

    Args:
        base: the base config and the flags.
        parser_keys: all keys of the parser, which do not include those of a model or data class.
    """
    known = {key for key in parser_keys if not key.endswith(".help")}
    for group, kinds in GROUPS.items():
        chosen = base.tree.get(group)
        path = chosen.get("class_path") if isinstance(chosen, dict) else chosen
        if path is not None:  # jsonargparse would import whatever module the config names
            _find_class(group, path)
        known |= {f"{group}.class_path", f"{group}.init_args"}
        for kind in kinds.values():
            known |= _arguments(group, kind).keys()
    flags = [flag.removeprefix("--").split("=")[0] for flag in base.flags if flag[:2] == "--"]
    for key in (key.replace("init_args.", "").rstrip("+") for key in _leaves(base.tree) + flags):
        if key in ("model.seed", "data.seed"):
            raise InputError(f"{key} is set from the run's seed; use --seed_everything")
        if key not in known | FLAGS_ONLY and not _is_within_value(key, known):
            near = _similar(key, known)
            suggestion = f", did you mean {near[0]}?" if near else ""
            raise InputError(f"{key}: unknown key{suggestion}; {HELP}")


def _similar(key: str, known: set[str]) -> list[str]:
    """Return at most one known key: the most similar one, preferably with the same last part."""
    last = key.rpartition(".")[2]
    same = sorted(name for name in known if name.rpartition(".")[2] == last)
    if same:
        return difflib.get_close_matches(key, same, 1, cutoff=0)
    return difflib.get_close_matches(key, sorted(known), 1)


def refuse_nulls(group: str, chosen: Namespace) -> None:
    """Raise InputError for null values of arguments that require a value.

    jsonargparse does not reject them.
    """
    kind = _find_class(group, chosen.class_path)
    for key, annotation in _arguments(group, kind).items():
        is_null = chosen.init_args.get(key.removeprefix(f"{group}."), "") is None
        if is_null and type(None) not in get_args(annotation):
            raise InputError(f"{key} must not be null; set a value or omit it; {HELP}")


def _find_class(group: str, path: Any) -> type:
    """Return the class with the given name, with or without its module."""
    for name, kind in GROUPS[group].items():
        if path in (name, f"{kind.__module__}.{name}"):
            return kind
    raise _unknown_class(group, path)


@functools.cache  # inspecting all classes takes a tenth of a second
def _arguments(group: str, kind: type) -> dict[str, Any]:
    """Return `group.key` and the type of every argument of a class, including nested ones."""
    parser = ArgumentParser()
    parser.add_class_arguments(kind, group, skip=LINKED)  # type: ignore[arg-type]
    return {action.dest: getattr(action, "_typehint", None) for action in parser._actions}


def _is_within_value(key: str, known: set[str]) -> bool:
    """Return whether the key is nested in a free-form value such as trainer.logger."""
    parents = [parent for parent in known if key.startswith(f"{parent}.")]
    return bool(parents) and not any(name.startswith(f"{max(parents)}.") for name in known)


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[str]:
    """List the keys of all leaves: {"a": {"b": 1}} becomes ["a.b"]."""
    keys = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        keys += _leaves(value, f"{name}.") if isinstance(value, dict) and value else [name]
    return keys


def shorten(message: str) -> str:
    """Shorten a jsonargparse message, which can fill a screen, to the key and the reason."""
    text = re.sub(r"<class '([\w.]+)'>", r"\1", " ".join(message.split()))
    text = text.replace("NoneType", "null")
    if unknown := re.match(r'Parser key "(model|data)": - Expected a path.* value: (.*)', text):
        return str(_unknown_class(unknown[1], unknown[2]))
    # The first error in a class is from a nested parser, and already short.
    if nested := re.match(rf'Parser key "(\w+)": .*? Errors: - ([\w.]+: .*?); {HELP}', text):
        return f"{nested[1]}.{nested[2]}; {HELP}"
    text = re.sub(r'Parser key "([^"]+)": ', r"\1: ", text)
    text = re.sub(r"Option '(\S+)' is not accepted", r"\1: not a key of this class", text)
    text = re.sub(r"Does not .* Subtypes: \[(.*?)\] .* value: ", r"expected \1, got ", text)
    return f"{text[:300]}; {HELP}"


def _unknown_class(group: str, path: Any) -> InputError:
    choices = ", ".join(GROUPS[group])
    return InputError(f"{group}: unknown class {path}; choose one of {choices}")
