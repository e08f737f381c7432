"""The layers hold: a module imports only from layers below its own.

The table is the one of ARCHITECTURE.md. A new package gets a row here before it gets an import.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmr

LAYERS = {
    "errors": 0,
    "units": 0,
    "format": 1,
    "core": 1,
    "drive": 2,
    "codec": 2,
    "config": 2,
    "catalog": 3,
    "log": 3,
    "policy": 3,
    "volume": 4,
    "fuse": 5,
    "archive": 5,
    "service": 6,
    "fsck": 7,
    "cli": 8,
    "testing": 8,
}
# Decisions are made over the values that formats define; no format knows of a decision.
WITHIN_A_LAYER = {("core", "format")}
LAST_LAYER_WITHOUT_FUSE = 4
WAITING = {"trio"}
PURE_LAYER = 1
IMPURE = {
    "asyncio", "io", "mmap", "multiprocessing", "os", "pathlib", "queue", "random", "secrets",
    "select", "shutil", "signal", "socket", "subprocess", "tempfile", "threading", "time",
}  # fmt: skip
# One library, one layer that knows it.
ONLY_IN = {"lmdb": {"catalog"}, "pyeclib": {"codec"}, "yaml": {"config"}}

ROOT = Path(shmr.__file__).parent
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(path: Path) -> str:
    """The row of the table that a file belongs to: its directory, or its own name."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[ast.stmt, str]]:
    """Every module that a file imports, wherever in it, with full names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            assert node.module is not None
            if node.module == "shmr":  # "from shmr import x" is either a module or the root
                for alias in node.names:
                    yield node, f"shmr.{alias.name}"
            else:
                yield node, node.module


def imported_package(name: str) -> str | None:
    """The row of the table that the imported module `name` belongs to, if it is one of ours."""
    parts = name.split(".")
    return parts[1] if parts[0] == "shmr" and len(parts) > 1 else None


@pytest.fixture(params=MODULES, ids=module_name)
def module(request: pytest.FixtureRequest) -> Path:
    path = request.param
    assert isinstance(path, Path)
    return path


def test_every_package_has_a_layer() -> None:
    assert {package_of(path) for path in MODULES} <= set(LAYERS)


def test_imports_point_down(module: Path) -> None:
    package = package_of(module)
    wrong = [
        f"line {node.lineno}: {name} (layer {LAYERS.get(target, '?')})"
        for node, name in imports(module)
        if (target := imported_package(name)) is not None
        and target != package
        and (package, target) not in WITHIN_A_LAYER
        and LAYERS.get(target, 99) >= LAYERS[package]
    ]
    assert not wrong, f"{module_name(module)} is in layer {LAYERS[package]} and imports {wrong}"


def test_no_module_imports_the_package_root(module: Path) -> None:
    for node, name in imports(module):
        assert name != "shmr", f"{module_name(module)}:{node.lineno}: imports the package root"


def test_no_import_of_ours_hides_in_a_function(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    hidden = [
        node.lineno
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
        if (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("shmr"))
        or (isinstance(node, ast.Import) and any(a.name.startswith("shmr") for a in node.names))
    ]
    assert not hidden, f"{module_name(module)}: hidden imports at lines {hidden}"


def test_a_library_is_known_in_one_layer(module: Path) -> None:
    package = package_of(module)
    for node, name in imports(module):
        library = name.split(".")[0]
        allowed = ONLY_IN.get(library)
        assert allowed is None or package in allowed, f"line {node.lineno}: {library} in {package}"


def test_what_is_below_fuse_waits_for_nothing(module: Path) -> None:
    if LAYERS[package_of(module)] <= LAST_LAYER_WITHOUT_FUSE:
        found = {name.split(".")[0] for _, name in imports(module)}
        assert not found & WAITING


def test_formats_and_decisions_reach_for_nothing(module: Path) -> None:
    if LAYERS[package_of(module)] == PURE_LAYER:
        found = {name.split(".")[0] for _, name in imports(module)}
        assert not found & IMPURE


def test_the_filesystem_imports_where_trio_is_absent() -> None:
    below = [
        module_name(path) for path in MODULES if LAYERS[package_of(path)] <= LAST_LAYER_WITHOUT_FUSE
    ]
    code = (
        "import importlib, sys\n"
        "sys.modules['trio'] = None\n"
        "for name in ['shmr', *sys.argv[1:]]:\n"
        "    importlib.import_module(name)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *below],
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
