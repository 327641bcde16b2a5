"""Test the structure of the source code: dependencies between modules, and file sizes.

The source files are parsed; only the test for side effects imports them.
"""

import ast
import functools
import io
import json
import re
import tokenize
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from program import ROOT, started

LAYERS = (
    "extras",
    "cli",
    "training",
    "inference",
    "data",
    "runs",
    "models",
    "transforms",
    "base",
)
BASE = {"src.config", "src.errors", "src.randomness", "src.lightning_loop"}
LIGHTNING = {"pytorch_lightning", "lightning", "lightning_fabric", "torchmetrics"}
PROGRAMS = {"train", "classify", "tests", "benchmarks", "examples"}
LOOP_INTERNALS = re.compile(
    r"\b(fit_loop|epoch_loop|_should_check_val_fx|_data_fetcher|batch_progress|epoch_progress)\b"
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


FILES = {module_name(path): path for path in sorted(ROOT.glob("src/**/*.py"))}


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the modules that the nodes import; `from a import b` can import a or a.b."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports must be absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in FILES else str(node.module))
    return found


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that are executed when a module is imported."""
    for child in ast.iter_child_nodes(node):
        is_typing = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not is_typing and not isinstance(child, ast.FunctionDef):
            yield child
            yield from at_import(child)


def package(module: str) -> str:
    return module.split(".")[0]


def layer(module: str) -> str:
    return "base" if module in BASE else module.split(".")[1]


GRAPH = {name: imports(ast.walk(parse(path))) for name, path in FILES.items()}
PACKAGES = {name: set(map(package, needs)) for name, needs in GRAPH.items()}
CORE = [name for name in FILES if name != "src" and layer(name) != "extras"]


# Imports ------------------------------------------------------------------------------------------


def test_every_file_has_a_layer_and_imports_files_that_exist():
    modules = FILES.keys() - {"src"}
    assert {layer(name) for name in modules} == set(LAYERS)
    for name, needs in GRAPH.items():
        ours = {need for need in needs if package(need) == "src"}
        assert ours <= modules, name


def test_imports_run_downwards_and_not_in_circles():
    """Check all imports, including those inside functions and for type checking."""
    ours = {name: needs & FILES.keys() for name, needs in GRAPH.items()}
    for name, needs in ours.items():
        for need in needs:
            assert LAYERS.index(layer(name)) <= LAYERS.index(layer(need)), f"{name} -> {need}"
    tuple(TopologicalSorter(ours).static_order())  # raises CycleError
    for name, packages in PACKAGES.items():
        assert not packages & PROGRAMS, name


def test_core_does_not_import_extras():
    for name in CORE:
        assert not [need for need in GRAPH[name] if need.startswith("src.extras")], name


def test_only_training_needs_lightning():
    for name in CORE:
        allowed = layer(name) in ("training", "cli") or name == "src.data.image_data"
        assert allowed or not PACKAGES[name] & LIGHTNING, name


def test_networks_and_transforms_need_only_torch():
    for name in CORE:
        if layer(name) in ("models", "transforms"):
            assert not PACKAGES[name] & {"torchvision", "PIL", "sklearn", "numpy"}, name


def test_lightnings_loop_is_accessed_in_one_file():
    found = [name for name in CORE if LOOP_INTERNALS.search(FILES[name].read_text())]
    assert found == ["src.lightning_loop"]


def test_classify_reaches_neither_lightning_nor_torchvision():
    """Follow all imports of classify.py, and the module-level imports of the files it reaches."""
    todo = imports(ast.walk(parse(ROOT / "classify.py")))
    reached: set[str] = set()
    while todo:
        name = todo.pop()
        reached.add(name)
        if name in FILES:
            todo |= imports(at_import(parse(FILES[name]))) - reached
    assert {"src.models.vit", "src.runs.checkpoint", "src.extras.page.server"} <= reached
    unused = LIGHTNING | {"torchvision", "sklearn", "jsonargparse", "rich"}
    assert not set(map(package, reached)) & unused


IMPORT_ALL = """
import importlib, json, os, sys, threading, warnings
import matplotlib

def state():
    return {
        "environment": dict(os.environ),
        "excepthook": sys.excepthook,
        "excepthook of threads": threading.excepthook,
        "rcParams": matplotlib.rcParams.copy(),
        "warnings": list(warnings.filters),
    }

libraries, ours = json.loads(sys.argv[1])
for name in libraries:
    importlib.import_module(name)
before = state()
for name in ours:
    importlib.import_module(name)
after = state()
print(*[key for key in before if before[key] != after[key]], sep=", ")
"""


def test_importing_has_no_side_effects():
    """Import other libraries first, because they have side effects; skip `__main__` modules."""
    ours = [name for name in FILES if not name.endswith("__main__")]
    modules = set.union(*(imports(at_import(parse(path))) for path in FILES.values()))
    libraries = sorted(modules - FILES.keys())
    ended = started("-c", IMPORT_ALL, json.dumps([libraries, ours]))
    assert ended.code == 0, ended
    assert ended.out == "\n"


# Size ---------------------------------------------------------------------------------------------

MAX_TOKENS = 2500
MAX_LINES = 400
MAX_FUNCTION = 50  # number of lines
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
TESTS = {module_name(path): path for path in sorted(ROOT.glob("tests/**/*.py"))}
SCRIPTS = {name: ROOT / f"{name}.py" for name in ("train", "classify")}
ALL = FILES | TESTS | SCRIPTS


def tokens_of(path: Path) -> list[tokenize.TokenInfo]:
    return list(tokenize.generate_tokens(io.StringIO(path.read_text()).readline))


def count_tokens(path: Path) -> int:
    """Return the number of tokens, excluding comments, docstrings and whitespace."""
    counted = [token for token in tokens_of(path) if token.type not in LAYOUT]
    docstrings = [token for token in counted if token.string.startswith('"""')]
    return len(counted) - len(docstrings)


def count_lines(path: Path) -> int:
    return path.read_text().count("\n")


def test_files_are_short():
    tokens = {name: count_tokens(path) for name, path in ALL.items()}
    lines = {name: count_lines(path) for name, path in ALL.items()}
    assert not [name for name, count in tokens.items() if count > MAX_TOKENS]
    assert not [name for name, count in lines.items() if count > MAX_LINES]


def test_functions_are_short():
    too_long = []
    for name, path in ALL.items():
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > MAX_FUNCTION:
                    too_long.append((name, node.name))
    assert not too_long


@pytest.mark.parametrize(("files", "most"), [(FILES, 6.0), (TESTS, 7.0)], ids=["src", "tests"])
def test_lines_hold_few_tokens(files, most):
    tokens = sum(map(count_tokens, files.values()))
    lines = sum(map(count_lines, files.values()))
    assert tokens / lines <= most
