"""Rooms import downwards only, without circles; what only names or configures something imports nothing heavy."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import diffi2i

PACKAGE = Path(diffi2i.__file__).parent

# From the lowest up; a module may import from its own line and from those above it in this list. A room that is split
# over two lines names its module there, which comes before its room, or after it where a comment says so.
ROOMS = (
    "errors",
    "files",
    "memory",
    "kinds.spec metrics.spec",  # what a configuration must know of kinds and scores, without torch
    "config",
    "weights",
    "run.signals",
    "run.hardware",  # which the score sheets gather over
    "data",
    "diffusion",
    "losses",
    "models",
    "metrics",
    "kinds",  # the rest of a kind is made of samples and score sheets
    "data.build",  # the DataModule of what a kind makes of a dataset's items
    "methods",
    "callbacks.panels",  # pictures, which trackers log
    "run",
    "callbacks",
    "tables",
    "restorer",
    "commands",
    "cli",
    "__main__",
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms.split()}
MODULES = {
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): file
    for file in PACKAGE.rglob("*.py")
    if file != PACKAGE / "__init__.py"
}


def room(module: str) -> str:
    """The longest name in `ROOMS` that the module is or lies in."""
    names = [module.rsplit(".", cut)[0] for cut in range(module.count(".") + 1)]
    return next((name for name in names if name in LEVEL), module)


def imports(module: str) -> Iterator[str]:
    """The modules of the package that this one imports, also inside functions."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: write imports in full"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        else:
            continue
        for name in found:
            inside = name.removeprefix("diffi2i.")
            if inside != name and inside.partition(".")[0] in {known.partition(".")[0] for known in MODULES}:
                yield inside if inside in MODULES else inside.rpartition(".")[0]


@cache
def graph() -> dict[str, list[str]]:
    """What each module imports of the package."""
    return {module: sorted(set(imports(module)) - {module}) for module in sorted(MODULES)}


def test_every_module_has_a_room() -> None:
    assert [module for module in MODULES if room(module) not in LEVEL] == []
    assert [name for name in LEVEL if name not in MODULES] == []


def test_rooms_import_downwards_only() -> None:
    assert graph()["commands.train"], "the search has gone blind"
    upwards = [
        f"{module} ({room(module)}) imports {other} ({room(other)})"
        for module, others in graph().items()
        for other in others
        if LEVEL[room(other)] > LEVEL[room(module)]
    ]
    assert upwards == []


def test_no_circles() -> None:
    order = [*TopologicalSorter(graph()).static_order()]  # raises CycleError, which names the circle
    assert set(order) == set(MODULES)


LIGHT = (
    "cli",
    "config.compose",
    "config.checks",
    "config.commands",
    "config.run",
    "config.schema",
    "metrics.spec",
    "run.record",
)


@pytest.mark.parametrize("module", LIGHT)
def test_what_only_describes_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, diffi2i.{module}; print(sys.modules.keys() & {{'torch', 'numpy', 'lightning'}})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "set()\n"
