"""Imports run one way: train.py -> cli -> classifier, data, callbacks -> all others; predict needs little."""

import ast
from graphlib import TopologicalSorter

import pytest
from short import ROOT

LIGHTNING = {"pytorch_lightning", "lightning", "lightning_fabric", "torchmetrics"}
MIDDLE = {"classifier", "data", "callbacks"}  # they know nothing of each other; train.py's cli brings them together
PLAIN = "vit cnn networks optim transforms mixing color images folders datasets formats weights runs errors".split()


def imports(path, inside_functions=True):
    """Every module that a file imports, `src.x` for our own; without the lazy ones inside functions, if asked to."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        for part in ast.walk(node) if inside_functions or not isinstance(node, ast.FunctionDef) else ():
            if isinstance(part, ast.Import):
                found |= {alias.name for alias in part.names}
            elif isinstance(part, ast.ImportFrom):
                assert part.level == 0, f"{path}: imports are absolute"
                found |= {f"src.{a.name}" for a in part.names} if part.module == "src" else {part.module}
    return found


def ours(path, **options):
    return {name.removeprefix("src.") for name in imports(path, **options) if name.startswith("src.")}


def outside(path, **options):
    return {name.split(".")[0] for name in imports(path, **options)} - {"src"}


GRAPH = {path.stem: ours(path) for path in (ROOT / "src").glob("*.py")}


def test_the_graph_has_no_cycles_and_no_unknown_names():
    assert list(TopologicalSorter(GRAPH).static_order())
    assert not set().union(*GRAPH.values()) - set(GRAPH)


def test_the_programs_stand_on_top():
    assert ours(ROOT / "train.py") == {"cli", "errors"}
    assert ours(ROOT / "classify.py") <= {"predict", "runs", "errors", "data"}
    assert not [name for name, needs in GRAPH.items() if "cli" in needs]
    assert not [name for name in GRAPH if {"train", "classify"} & outside(ROOT / "src" / f"{name}.py")]


def test_data_model_and_callbacks_meet_in_the_cli_alone():
    assert GRAPH["cli"] >= MIDDLE
    assert {name for name, needs in GRAPH.items() if needs & MIDDLE} == {"cli", "explain"}


@pytest.mark.parametrize("name", PLAIN)
def test_the_lower_half_knows_nothing_of_lightning(name):
    assert not outside(ROOT / "src" / f"{name}.py") & LIGHTNING


def test_networks_know_nothing_of_data_and_runs():
    for name in ("vit", "cnn", "networks", "optim", "transforms"):
        assert GRAPH[name] <= {"errors", "color", "vit", "cnn", "networks"}
        assert not outside(ROOT / "src" / f"{name}.py") & {"torchvision", "PIL"}


def test_predict_reaches_neither_lightning_nor_torchvision():
    reached, todo = set(), {"predict"}
    while todo:
        name = todo.pop()
        reached.add(name)
        todo |= ours(ROOT / "src" / f"{name}.py", inside_functions=False) - reached
    packages = set().union(*(outside(ROOT / "src" / f"{name}.py", inside_functions=False) for name in reached))
    assert reached >= {"predict", "runs", "networks", "vit", "cnn", "transforms", "images"}
    assert not packages & (LIGHTNING | {"torchvision", "sklearn", "jsonargparse", "rich"})
    assert not outside(ROOT / "classify.py", inside_functions=False) & (LIGHTNING | {"torchvision"})
