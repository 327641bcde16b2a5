"""jsonargparse's explanations of what is wrong with a key, each of which can fill a screen, as one line."""

import difflib
import inspect
import pydoc
import re
import sys
from typing import get_args, get_type_hints

from src import classifier, data
from src.errors import InputError


def one_line(message: str, parser_keys: list[str]) -> str:
    """jsonargparse's explanation, which can fill a screen, as one line: the key, what is wrong, and what was meant."""
    text = re.sub(r" - Expected an? <class 'NoneType'>", "", " ".join(message.split()))
    keys = re.findall(r'Parser key "([^"]+)"', text)
    if nested := re.search(r"- ([\w.]+: .+?; see python train.py --help)", text):
        return f"{keys[0]}.{nested[1]}"  # a parser within the parser has already said it in one line
    if whole := re.search(r'Parser key "(\w+)": Unable to load config .(.*?)[\'"] ', text + " "):
        path = ".".join(dict.fromkeys([*keys[:1], whole[1]]))
        return f"{path}: expected keys below it, not {whole[2]}; see python train.py --help"
    if unknown := re.search(r"Option '([^']+)' is not|unrecognized arguments: --([^\s=]+)", text):
        return _unknown_key([*keys, unknown[1] or unknown[2]], parser_keys)
    if unknown := re.search(r"Group '([^']+)' does not accept option '([^']+)'", text):
        return _unknown_key([*keys, unknown[1], unknown[2]], parser_keys)
    kinds = {"model": classifier.Classifier, "data": data.ImageDataModule}.get(keys[0] if keys else "")
    if kinds and ("import path" in text or "not accessible or invalid" in text):
        given = re.search(r"(?:import path string:|Given value:) (\S+)", text)
        names = [name for name, c in vars(sys.modules[kinds.__module__]).items() if _is_choice(c, kinds)]
        return f"{keys[0]}: {given[1] if given else 'it'} is unknown; choose one of {', '.join(names)}"
    expected = re.search(r"Expected an? (?:typing\.)?(.+?)(?:\. Got value| - | Given value|$)", text)
    value = re.search(r"Got value: (.+?)(?: Given value| - |$)", text) or re.search(r"Given value: (.+?)( - |$)", text)
    if not (keys and expected and value):
        return text[:300]
    kind = re.sub(r"<class '(\w+)'>", r"\1", expected[1])
    given = "" if value[1].startswith("Given value type") else f", not {value[1]}"  # which it leaves out when empty
    return f"{'.'.join(keys)}: expected {kind}{given}; see python train.py --help"


def refuse_nulls(group: str, class_path: str, values: dict) -> None:
    """Raise InputError for a null, which jsonargparse lets through, where the class's constructor expects a value."""
    hints = {}
    for kind in reversed(pydoc.locate(class_path).__mro__):
        hints |= get_type_hints(kind.__init__)
    for key, value in values.items():
        if value is None and key in hints and type(None) not in get_args(hints[key]):
            raise InputError(f"{group}.{key} null: give a value, or leave it out; see python train.py --help")


def _unknown_key(path: list[str], parser_keys: list[str]) -> str:
    """The message for a key that does not exist, with the known key that looks most like it."""
    known = {key.split(".")[-1] for key in parser_keys}
    for kind in (*_subclasses(classifier.Classifier), *_subclasses(data.ImageDataModule), data.Augmentation):
        known |= set(inspect.signature(kind).parameters)
    *groups, last = path[-1].split(".")
    near = difflib.get_close_matches(last, sorted(known), 1)
    if groups and groups[0] not in (tops := {key.split(".")[0] for key in parser_keys}) and near:
        near = [".".join(difflib.get_close_matches(groups[0], sorted(tops), 1) + near)]
    if near == [path[-1]]:  # a key of another class, such as freeze of the CNN
        return f"{'.'.join(path)}: unknown key of the class chosen, another has it; see python train.py --help"
    meant = f", did you mean {near[0]}?" if near else ""
    return f"{'.'.join(path)}: unknown key{meant}; see python train.py --help"


def _is_choice(c: object, base: type) -> bool:
    return isinstance(c, type) and issubclass(c, base) and c not in (base, data.NamedDataModule)


def _subclasses(kind: type) -> list[type]:
    return [kind] + [below for child in kind.__subclasses__() for below in _subclasses(child)]
