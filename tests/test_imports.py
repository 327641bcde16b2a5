"""The rooms of src: imports run downwards only, each library stays where it belongs, and every file is short."""

import ast
import re
from graphlib import TopologicalSorter

from program import ROOT

ROOMS = [
    "cli",
    "training",
    "inference",
    "data",
    "models",
    "transforms",
    "runs",
    "ground",
]  # from top to bottom
LIGHTNING = {"pytorch_lightning", "lightning", "lightning_fabric", "torchmetrics"}
LOOP_INTERNALS = (
    r"\b(fit_loop|epoch_loop|_should_check_val_fx|_data_fetcher|batch_progress|epoch_progress)\b"
)


def trees(path):
    """The syntax tree of a file without its functions, and each of its functions."""
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inside = {id(part) for function in functions for part in ast.walk(function)}
    return [node for node in ast.walk(tree) if id(node) not in inside], functions


def imports(nodes) -> set[str]:
    """Every module that these nodes import: `src.x.y` for our own, the package for others."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            whole = (
                ROOT / node.module.replace(".", "/")
            ).is_dir()  # `from src.data import modules` names a file
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if whole else {node.module}
            )
    return {name if name.startswith("src.") else name.split(".")[0] for name in found}


FILES = {
    ".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in (ROOT / "src").rglob("*.py")
}
FILES = {name: path for name, path in FILES.items() if path.stem != "__init__"}
GRAPH = {name: imports(ast.walk(ast.parse(path.read_text()))) for name, path in FILES.items()}


def room(name: str) -> str:
    return name.split(".")[1] if name.count(".") == 2 else "ground"


def test_every_file_is_in_a_room_and_imports_files_that_exist():
    assert {room(name) for name in FILES} == set(ROOMS)
    assert (
        not {needed for needs in GRAPH.values() for needed in needs if needed.startswith("src.")}
        - FILES.keys()
    )


def test_imports_run_downwards_and_never_in_a_circle():
    ours = {name: needs & FILES.keys() for name, needs in GRAPH.items()}
    floor = {name: ROOMS.index(room(name)) for name in FILES}
    assert not [
        (name, need) for name, needs in ours.items() for need in needs if floor[need] < floor[name]
    ]
    assert not [
        name
        for name, needs in GRAPH.items()
        if needs & {"train", "classify", "tests", "benchmarks"}
    ]
    assert list(TopologicalSorter(ours).static_order())


def test_lightning_is_for_training_its_data_and_the_command_line():
    users = {name for name, needs in GRAPH.items() if needs & LIGHTNING}
    assert {name for name in users if room(name) not in ("training", "cli")} == {"src.data.modules"}


def test_networks_and_transforms_are_torch_alone():
    torch_alone = {
        name: needs for name, needs in GRAPH.items() if room(name) in ("models", "transforms")
    }
    assert not [
        name
        for name, needs in torch_alone.items()
        if needs & {"torchvision", "PIL", "sklearn", "numpy"}
    ]


def test_classify_reaches_neither_lightning_nor_torchvision():
    """But for --index and the examples of --serve, which import the datasets where they need them."""
    top, functions = trees(ROOT / "classify.py")
    lazy = set().union(*(imports(ast.walk(function)) for function in functions))
    assert {room(name) for name in lazy & FILES.keys() - {"src.data.modules"}} == {
        "inference",
        "runs",
    }
    reached, todo, packages = set(), (imports(top) | lazy) - {"src.data.modules"}, set()
    while todo:
        name = todo.pop()
        if name in FILES:
            reached.add(name)
            todo |= imports(trees(FILES[name])[0]) - reached
        else:
            packages.add(name)
    assert reached >= {
        "src.models.vit",
        "src.models.cnn",
        "src.data.images",
        "src.runs.checkpoint",
        "src.errors",
    }
    assert not packages & (
        LIGHTNING | {"torchvision", "sklearn", "jsonargparse", "rich", "matplotlib"}
    )


def test_lightnings_loop_is_known_in_one_file():
    assert [
        name for name, path in FILES.items() if re.search(LOOP_INTERNALS, path.read_text())
    ] == ["src.loop"]


def test_files_and_functions_are_short_and_the_formatter_is_seldom_silenced():
    assert not [name for name, path in FILES.items() if len(path.read_text().splitlines()) > 300]
    functions = [(name, f) for name, path in FILES.items() for f in trees(path)[1]]
    assert not [(name, f.name) for name, f in functions if f.end_lineno - f.lineno >= 45]
    assert sum(path.read_text().count("# fmt: skip") for path in FILES.values()) <= 5
