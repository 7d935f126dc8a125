"""The rooms import downward only, some rooms stay free of certain things, and the entry points stay thin.

The checker reads the syntax tree of every module, so that an import inside a function or under
``TYPE_CHECKING`` counts as well. Its own tests plant violations in synthetic sources.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cryodrgn_ext", "relion_wrappers", "cryosparc_jobs")

GROUND = "ground"
GROUND_MODULES = frozenset(
    {"errors", "durable_files", "plain_files", "progress", "setting_field", "settings", "tokens"}
)
# Lowest line first. A room may import every room of the lines below its own.
LINES: tuple[tuple[str, ...], ...] = (
    (GROUND,),
    ("metadata", "atoms"),
    ("fourier",),
    ("images", "simulate"),
    ("reconstruction",),
    ("pose",),
    ("engines",),
    ("options",),  # the settings of every job: what jobs have in common reads them, too
    ("analysis", "validation"),
    ("results",),
    ("report",),
    ("workflow",),  # a run knows its report: both were neighbours in the first design
    ("jobs",),
    ("explorer",),  # runs jobs as a user does; the registry of jobs names it by text, as it names every job
    ("cli", "relion_wrappers", "cryosparc_jobs"),
)
LEVEL = {room: level for level, line in enumerate(LINES) for room in line}
ENTRY_POINTS = frozenset(LINES[-1])
# Arrows along a line that the design shows, and arrows downward that it forbids.
EXTRA_ARROWS = frozenset({("simulate", "images")})
FORBIDDEN_ARROWS = frozenset({("fourier", "metadata")})
# Entry points translate: they know the jobs, the formats of the suites, and the ground floor.
ROOMS_FOR_ENTRY_POINTS = frozenset({"jobs", "options", "workflow", "results", "metadata", GROUND})

SCIENCE = frozenset({"torch", "scipy", "sklearn", "umap", "numba", "mrcfile", "matplotlib", "safetensors", "pandas"})
FILES = frozenset(
    {"mrcfile", "starfile", "safetensors", "yaml", "pathlib", "os", "io", "shutil", "tempfile", "mmap", "glob"}
)
FORBIDDEN_MODULES: dict[str, frozenset[str]] = {
    "metadata": frozenset({"torch"}),
    "atoms": frozenset({"torch"}),
    "fourier": FILES,
    **dict.fromkeys(ENTRY_POINTS, SCIENCE),
}
FILE_CALLS = frozenset({"open", "load", "save", "savez", "fromfile", "tofile", "memmap", "loadtxt", "savetxt"})
# What the package itself may import, and does when it is asked for: cryodrgn_ext.explore(result).
FOR_NOTEBOOKS = frozenset({"cryodrgn_ext.explorer.notebook"})
# The only module that may touch pickles (through a restricted unpickler).
PICKLE_MODULES = frozenset({"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"})
PICKLE_HOME = "cryodrgn_ext.metadata.cryodrgn_pickle"


@dataclass(frozen=True)
class Violation:
    """One broken rule: the module, the line and a sentence."""

    module: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.reason}"


def room_of(module: str) -> str | None:
    """Return the room of a dotted module name of ours: None for the package itself or a stranger.

    Raises
    ------
    ValueError
        For a module of ours that belongs to no room.
    """
    first, *rest = module.split(".")
    if first in ("relion_wrappers", "cryosparc_jobs"):
        return first
    if first != "cryodrgn_ext" or not rest or rest[0] in ("__init__", "__version__"):
        return None
    if rest[0] == "__main__":
        return "cli"
    if rest[0] in GROUND_MODULES:
        return GROUND
    if rest[0] not in LEVEL:
        raise ValueError(f"{module} belongs to no room: add it to LINES in {Path(__file__).name} and to the design")
    return rest[0]


def imported_modules(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything that a module imports, relative imports resolved."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            if name in ("cryodrgn_ext", "") or node.module is None:
                for alias in node.names:  # from cryodrgn_ext import images: the room is the name
                    yield node.lineno, f"{name}.{alias.name}" if name else alias.name
            else:
                yield node.lineno, name
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0] if node.args else None
            dynamic = called in ("import_module", "__import__")
            if dynamic and isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node.lineno, first.value


def file_calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of calls that read or write files: open(...), numpy.load(...), torch.save(...)."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id == "open":
            yield node.lineno, "open"
        elif (
            isinstance(node.func, ast.Attribute)
            and node.func.attr in FILE_CALLS
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in ("np", "numpy", "torch")
        ):
            yield node.lineno, f"{node.func.value.id}.{node.func.attr}"


def _arrow_fault(room: str, target: str) -> str | None:
    if target == room or (room, target) in EXTRA_ARROWS:
        return None
    if LEVEL[target] >= LEVEL[room]:
        return f"{room} may not import {target}: rooms import downward only"
    if (room, target) in FORBIDDEN_ARROWS:
        return f"{room} may not import {target}: they know nothing of each other"
    if room in ENTRY_POINTS and target not in ROOMS_FOR_ENTRY_POINTS:
        return f"{room} is an entry point and may not import {target}: entry points call one function of jobs"
    return None


def _stranger_fault(room: str, name: str) -> str | None:
    top = name.split(".")[0]
    if room == GROUND and top not in sys.stdlib_module_names and top != "numpy":
        return f"the ground floor may import the standard library and numpy only, not {name}"
    if top in FORBIDDEN_MODULES.get(room, frozenset()):
        return f"{room} may not import {name}"
    return None


def violations(source: str, module: str, is_package: bool = False) -> list[Violation]:
    """Return every broken rule in the source text of the module of this dotted name."""
    tree = ast.parse(source)
    room = room_of(module)
    found = []
    for line, name in imported_modules(tree, module, is_package):
        if name.split(".")[0] in PICKLE_MODULES and module != PICKLE_HOME:
            found.append(Violation(module, line, f"only {PICKLE_HOME} may import {name}"))
        ours = name.split(".")[0] in PACKAGES
        if room is None:
            if name not in FOR_NOTEBOOKS and name.split(".")[0] != "__future__":
                found.append(Violation(module, line, f"the package itself imports nothing, not even {name}"))
            continue
        target = room_of(name) if ours else None
        fault = _stranger_fault(room, name) if not ours else _arrow_fault(room, target) if target else None
        if fault:
            found.append(Violation(module, line, fault))
    if room == "fourier":
        found += [Violation(module, line, f"fourier has no files, but calls {name}") for line, name in file_calls(tree)]
    return found


def _project_modules() -> list[tuple[Path, str, bool]]:
    modules = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            modules.append((path, ".".join(parts[:-1] if is_package else parts), is_package))
    return modules


def test_every_module_keeps_the_rules() -> None:
    modules = _project_modules()
    assert len(modules) > 10, "the checker found no modules to check"
    broken = [fault for path, name, package in modules for fault in violations(path.read_text("utf-8"), name, package)]
    assert not broken, "\n" + "\n".join(str(fault) for fault in broken)


def module_graph(sources: Mapping[str, tuple[str, bool]]) -> dict[str, set[str]]:
    """Return which modules each one imports, wherever in its source; ``from package import module`` names the module.

    Parameters
    ----------
    sources : mapping
        Dotted name to source text, and whether it is a package.
    """
    graph: dict[str, set[str]] = {}
    for module, (source, is_package) in sources.items():
        tree = ast.parse(source)
        found = {name for _, name in imported_modules(tree, module, is_package)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
        graph[module] = {name for name in found if name in sources and name != module}
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that reach one another."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for name in graph[waiting.pop()] - seen:
                seen.add(name)
                waiting.append(name)
        reached[start] = seen
    groups = {tuple(sorted({other for other in reached[name] if name in reached[other]})) for name in graph}
    return [list(group) for group in sorted(groups) if len(group) > 1]


def test_no_circle_of_files() -> None:
    sources = {name: (path.read_text("utf-8"), package) for path, name, package in _project_modules()}
    assert circles(module_graph(sources)) == []


def test_a_planted_circle_is_found() -> None:
    sources = {
        "cryodrgn_ext.jobs.a": ("def f():\n    from cryodrgn_ext.jobs import b", False),
        "cryodrgn_ext.jobs.b": ("from cryodrgn_ext.jobs.c import x", False),
        "cryodrgn_ext.jobs.c": ("import cryodrgn_ext.jobs.a", False),
        "cryodrgn_ext.jobs.d": ("from cryodrgn_ext.jobs import a", False),
    }
    assert circles(module_graph(sources)) == [[f"cryodrgn_ext.jobs.{name}" for name in "abc"]]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cryodrgn_ext.metadata.star", "import torch"),
        ("cryodrgn_ext.metadata.star", "import torch.nn.functional as F"),
        ("cryodrgn_ext.metadata.star", "def f():\n    from torch import nn"),
        ("cryodrgn_ext.metadata.star", "from cryodrgn_ext.fourier import ctf"),
        ("cryodrgn_ext.metadata.star", "from ..fourier import ctf"),
        ("cryodrgn_ext.metadata.star", "from .. import fourier"),
        ("cryodrgn_ext.metadata.star", "from cryodrgn_ext import images"),
        ("cryodrgn_ext.metadata.star", "import pickle"),
        ("cryodrgn_ext.metadata.star", "import importlib\nimportlib.import_module('torch')"),
        ("cryodrgn_ext.fourier.ctf", "from cryodrgn_ext.metadata.particles import ParticleSet"),
        ("cryodrgn_ext.fourier.ctf", "import mrcfile"),
        ("cryodrgn_ext.fourier.ctf", "from pathlib import Path"),
        ("cryodrgn_ext.fourier.ctf", "def f(p):\n    return open(p).read()"),
        ("cryodrgn_ext.fourier.ctf", "import numpy as np\nx = np.load('x.npy')"),
        ("cryodrgn_ext.images.stacks", "from cryodrgn_ext.simulate import x"),
        ("cryodrgn_ext.images.stacks", "from cryodrgn_ext.reconstruction.backprojection import backproject"),
        ("cryodrgn_ext.analysis.latents", "from cryodrgn_ext.validation import states"),
        (
            "cryodrgn_ext.engines.neural.trainer",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import cryodrgn_ext.jobs.train",
        ),
        ("cryodrgn_ext.jobs.train", "from cryodrgn_ext.cli import main"),
        ("cryodrgn_ext.cli.main", "import relion_wrappers.entry_point"),
        ("cryodrgn_ext.cli.main", "from cryodrgn_ext.engines.base import ENGINES"),
        ("relion_wrappers.entry_point", "from cryodrgn_ext.images.dataset import open_images"),
        ("relion_wrappers.entry_point", "import torch"),
        ("relion_wrappers.entry_point", "from cryodrgn_ext import cli"),
        ("cryodrgn_ext.errors", "import torch"),
        ("cryodrgn_ext.settings", "import yaml"),
        ("cryodrgn_ext.progress", "from cryodrgn_ext.metadata import star"),
        ("cryodrgn_ext", "from cryodrgn_ext.jobs import train"),
    ],
)
def test_planted_violation_is_found(module: str, source: str) -> None:
    faults = violations(source, module, is_package=module == "cryodrgn_ext")
    assert len(faults) == 1, faults
    assert faults[0].line == len(source.splitlines())


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cryodrgn_ext.metadata.star", "import numpy\nimport starfile\nfrom cryodrgn_ext.errors import InputError"),
        ("cryodrgn_ext.metadata.cryodrgn_pickle", "import pickle"),
        ("cryodrgn_ext.fourier.ctf", "import torch\nfrom cryodrgn_ext.fourier.half_plane import HalfPlane"),
        ("cryodrgn_ext.fourier.ctf", "from .half_plane import HalfPlane"),
        ("cryodrgn_ext.simulate.particles", "from cryodrgn_ext.images.maps import write_map"),
        ("cryodrgn_ext.reconstruction.half_maps", "from cryodrgn_ext.metadata.particles import ParticleSet"),
        ("cryodrgn_ext.jobs.train", "from cryodrgn_ext import __version__\nfrom cryodrgn_ext.engines import base"),
        ("cryodrgn_ext.cli.main", "import click\nfrom cryodrgn_ext.jobs.train import train"),
        ("relion_wrappers.nodes", "from cryodrgn_ext.jobs import train\nfrom relion_wrappers.external import run"),
        ("cryodrgn_ext.settings", "import dataclasses\nimport numpy as np\nfrom cryodrgn_ext.errors import InputError"),
        ("cryodrgn_ext", "from __future__ import annotations\n__version__ = '1'"),
    ],
)
def test_allowed_import_passes(module: str, source: str) -> None:
    assert violations(source, module, is_package=module == "cryodrgn_ext") == []


def test_module_without_a_room_is_refused() -> None:
    with pytest.raises(ValueError, match="belongs to no room"):
        room_of("cryodrgn_ext.helpers.things")
