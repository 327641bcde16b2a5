"""Reject unknown keys and null values, and shorten jsonargparse's messages to one line."""

import dataclasses
import difflib
import inspect
import re
from collections.abc import Iterable
from typing import Any, get_args

from jsonargparse import Namespace

from src.cli.options import Base
from src.config import CNNHyperparameters, ViTHyperparameters
from src.data.modules import FolderDataModule, ImageDataModule, NamedDataModule
from src.errors import InputError
from src.training.classifier import CNN, ViT

HELP = "see --help"
GROUPS: dict[str, dict[str, type]] = {
    "model": {"ViT": ViT, "CNN": CNN},
    "data": {kind.__name__: kind for kind in (*NamedDataModule.__subclasses__(), FolderDataModule)},
}
HYPERPARAMETERS = {ViT: ViTHyperparameters, CNN: CNNHyperparameters}
LINKED = ("dataset", "seed")  # arguments set by the program, not by the user
FLAGS_ONLY = {"help", "h", "print_config", "c", "model.help", "data.help"}


def check_keys(base: Base, parser_keys: Iterable[str]) -> None:
    """Raise InputError for the first unknown key in the config or the flags.

    jsonargparse ignores some unknown keys (`data.augment.rotat`) and reports others with a page of
    text.

    Args:
        base: the base config and the flags.
        parser_keys: all keys of the parser; keys in the model and data groups are ignored.
    """
    general = {key for key in parser_keys if key.split(".")[0] not in GROUPS} | FLAGS_ONLY
    flags = [flag.removeprefix("--").split("=")[0] for flag in base.flags if flag[:2] == "--"]
    of_config = {group: _class_in_config(group, base.tree) for group in GROUPS}
    of_flags = {group: _class_in_flags(group, base.flags) or of_config[group] for group in GROUPS}
    _check(_leaves(base.tree), of_config, general)
    _check(flags, of_flags, general)


def _check(keys: list[str], classes: dict[str, str], general: set[str]) -> None:
    """Raise InputError for the first key that neither its group's class nor the parser defines."""
    known = set(general)
    for group, name in classes.items():
        known |= {group, f"{group}.class_path", f"{group}.init_args"}
        known |= _class_keys(group, name)
    for key in (key.replace("init_args.", "").rstrip("+") for key in keys):
        if key not in known and not _is_within_value(key, known):
            raise _unknown(key, classes, known)


def _unknown(key: str, classes: dict[str, str], known: set[str]) -> InputError:
    group, _, rest = key.partition(".")
    if rest == "seed" and group in GROUPS:
        return InputError(f"{key} is set from the run's seed; use --seed_everything")
    if group in GROUPS and any(key in _class_keys(group, name) for name in GROUPS[group]):
        name = classes[group]
        return InputError(f"{key}: {name} has no such key; see --{group}.help {name}")
    near = difflib.get_close_matches(key, sorted(known - FLAGS_ONLY), 1)
    suggestion = f", did you mean {near[0]}?" if near else ""
    return InputError(f"{key}: unknown key{suggestion}; {HELP}")


def refuse_nulls(group: str, chosen: Namespace) -> None:
    """Raise InputError for null values of arguments that require a value.

    jsonargparse does not reject them.
    """
    name = chosen.class_path.rsplit(".", 1)[-1]
    for key, annotation in _arguments(GROUPS[group][name]).items():
        is_null = key in chosen.init_args and chosen.init_args[key] is None
        if is_null and type(None) not in get_args(annotation):
            raise InputError(f"{group}.{key} must not be null; set a value or omit it; {HELP}")


def _class_in_config(group: str, tree: dict[str, Any]) -> str:
    chosen = tree.get(group)
    return _known_class(group, chosen.get("class_path") if isinstance(chosen, dict) else chosen)


def _class_in_flags(group: str, flags: list[str]) -> str | None:
    """Return the class selected by the last matching flag, or None if there is no such flag."""
    chosen = None
    for flag, following in zip(flags, [*flags[1:], ""], strict=False):
        name, _, value = flag.partition("=")
        if name in (f"--{group}", f"--{group}.class_path"):
            chosen = value or following
    return None if chosen is None else _known_class(group, chosen)


def _known_class(group: str, path: Any) -> str:
    name = str(path).rsplit(".", 1)[-1]
    if name not in GROUPS[group]:
        choices = ", ".join(GROUPS[group])
        raise InputError(f"{group}: unknown class {path}; choose one of {choices}")
    return name


def _class_keys(group: str, name: str) -> set[str]:
    """Return `group.key` for every argument of a class, including fields of dataclass arguments."""
    keys = set()
    for key, annotation in _arguments(GROUPS[group][name]).items():
        keys.add(f"{group}.{key}")
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            keys |= {f"{group}.{key}.{field.name}" for field in dataclasses.fields(annotation)}
    return keys


def _arguments(kind: type) -> dict[str, Any]:
    """Return the names and types of a constructor's arguments, including those in **kwargs."""
    found = {}
    for parameter in inspect.signature(kind).parameters.values():
        if parameter.kind is not parameter.VAR_KEYWORD:
            found[parameter.name] = parameter.annotation
        elif kind in HYPERPARAMETERS:
            fields = dataclasses.fields(HYPERPARAMETERS[kind])
            found |= {field.name: field.type for field in fields}
        elif issubclass(kind, ImageDataModule):
            found = _arguments(kind.__mro__[1]) | found
    return {name: annotation for name, annotation in found.items() if name not in LINKED}


def _is_within_value(key: str, known: set[str]) -> bool:
    """Return whether the key is nested in a free-form value such as trainer.logger."""
    options = {name for name in known if not name.endswith(".help")}
    parents = [key.rsplit(".", n)[0] for n in range(1, key.count(".") + 1)]
    return any(
        parent in known
        and parent not in GROUPS
        and not any(name.startswith(f"{parent}.") for name in options)
        for parent in parents
    )


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[str]:
    """List the keys of all leaves: {"a": {"b": 1}} becomes ["a.b"]."""
    keys = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        keys += _leaves(value, f"{name}.") if isinstance(value, dict) and value else [name]
    return keys


def shorten(message: str) -> str:
    """Shorten a jsonargparse message, which can fill a screen, to the key and the reason."""
    text = " ".join(message.split())
    keys = list(dict.fromkeys(re.findall(r'Parser key "([^"]+)": ', text)))
    reason = re.split(r'Parser key "[^"]+": ', text)[-1].removesuffix(".")
    # For keys inside a class, use the nested parser's message; it is already short.
    if nested := re.search(rf"Errors: - ([\w.]+): (.*?); {HELP}", text):
        keys, reason = [*keys, nested[1]], nested[2]
    elif union := re.search(r"Subtypes: \[(.*?)\] Errors: .* Given value: (.*)", reason):
        reason = f"expected {union[1].replace(', ', ' or ')}, got {union[2]}"
    elif single := re.match(r"Expected an? (.*?)\. Got value: ?(.*)", reason):
        reason = f"expected {single[1]}, got {single[2] or 'nothing'}"
    reason = re.sub(r"<class '(?:NoneType|([\w.]+))'>", lambda m: m[1] or "null", reason)
    reason = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", reason)
    key = f"{'.'.join(keys)}: " if keys else ""
    return f"{key}{reason[:300]}; {HELP}"
