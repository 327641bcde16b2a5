"""Keys that do not exist, classes that do not exist, and nulls: found before the parser sees them."""

import dataclasses
import difflib
import inspect
from typing import get_args

from src.data import modules
from src.errors import InputError
from src.training import classifier

GROUPS = {
    "model": {"ViT": classifier.ViT, "CNN": classifier.CNN},
    "data": {
        kind.__name__: kind
        for kind in (*modules.NamedDataModule.__subclasses__(), modules.FolderDataModule)
    },
}
FLAGS_ALONE = {"help", "h", "print_config", "c", "model.help", "data.help"}


def check_keys(config: dict, args: list[str], parser_keys: list[str]) -> None:
    """Raise InputError at the first key of the config or flag that does not exist, with the one that was meant.

    Args:
        config: the tree of a YAML file.
        args: the command line.
        parser_keys: keys that the parser knows, but for those of the classes of model and data.
    """
    flags = [arg[2:].split("=")[0] for arg in args if arg.startswith("--")]
    others = {key for key in parser_keys if key.split(".")[0] not in GROUPS} | FLAGS_ALONE
    for written, chosen_by in (
        (_leaves(config), []),
        (flags, args),
    ):  # a flag's class need not have the config's keys
        given = {group: _class_name(group, config, chosen_by) for group in GROUPS}
        _check(written, given, others)


def _check(written: list[str], given: dict[str, str], others: set[str]) -> None:
    """Raise InputError at the first key that neither the given class of its group nor the rest of the parser has."""
    known, elsewhere = set(others), set()
    for group, classes in GROUPS.items():
        known |= {group, f"{group}.class_path", f"{group}.init_args"} | _keys(
            group, classes[given[group]]
        )
        elsewhere |= {key for kind in classes.values() for key in _keys(group, kind)}
    for key in (name.replace("init_args.", "").rstrip("+") for name in written):
        if key in known or _is_within_a_value(key, known):
            continue
        if key in elsewhere:
            name = given[key.split(".")[0]]
            raise InputError(
                f"{key}: {name} has no such key; see python train.py --{key.split('.')[0]}.help {name}"
            )
        near = difflib.get_close_matches(key, sorted(known - FLAGS_ALONE), 1)
        meant = f", did you mean {near[0]}?" if near else ""
        raise InputError(f"{key}: unknown key{meant}; see python train.py --help")


def refuse_nulls(group: str, class_path: str, values: dict) -> None:
    """Raise InputError for a null, which jsonargparse lets through, where the class's constructor expects a value."""
    for name, parameter in _parameters(GROUPS[group][class_path.rsplit(".", 1)[-1]]).items():
        if (
            name in values
            and values[name] is None
            and type(None) not in get_args(parameter.annotation)
        ):
            raise InputError(
                f"{group}.{name} null: give a value, or leave it out; see python train.py --help"
            )


def _class_name(group: str, config: dict, args: list[str]) -> str:
    """The class of the group that is chosen: the last flag that names one, or else the config's."""
    tree = config.get(group)
    chosen = tree.get("class_path") if isinstance(tree, dict) else tree
    for name, value in zip(args, [*args[1:], ""], strict=False):
        flag, _, same = name.partition("=")
        if flag in (f"--{group}", f"--{group}.class_path"):
            chosen = same or value
    name = str(chosen).rsplit(".", 1)[-1]
    if name not in GROUPS[group]:
        raise InputError(f"{group}: {chosen} is unknown; choose one of {', '.join(GROUPS[group])}")
    return name


def _keys(group: str, kind: type) -> set[str]:
    """`group.key` of every argument of the class, and those of its dataclasses."""
    keys = set()
    for name, parameter in _parameters(kind).items():
        keys.add(f"{group}.{name}")
        if dataclasses.is_dataclass(parameter.annotation):
            keys |= {
                f"{group}.{name}.{field.name}" for field in dataclasses.fields(parameter.annotation)
            }
    return keys


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    """Arguments of the constructor, and where it takes `**kwargs`, those of the class above it."""
    found = dict(inspect.signature(kind).parameters)
    return _parameters(kind.__base__) | found if found.pop("kwargs", None) else found


def _is_within_a_value(key: str, known: set[str]) -> bool:
    """Whether the key lies below one that has a tree as its value, such as trainer.logger, which has keys itself."""
    parents = [key.rsplit(".", n)[0] for n in range(1, key.count(".") + 1)]
    keys = {k for k in known if not k.endswith(".help")}
    return any(
        p in known and p not in GROUPS and not any(k.startswith(f"{p}.") for k in keys)
        for p in parents
    )


def _leaves(tree: dict, prefix: str = "") -> list[str]:
    """{"a": {"b": 1}} -> ["a.b"]"""
    keys = []
    for key, value in tree.items():
        keys += (
            _leaves(value, f"{prefix}{key}.")
            if isinstance(value, dict) and value
            else [f"{prefix}{key}"]
        )
    return keys
