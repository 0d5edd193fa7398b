"""The import rule of docs/architecture.md: downhill only, no rings, torch only where it belongs."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "detector"
FILES = sorted(PACKAGE.rglob("*.py"))
FRONT = {"__init__", "__main__", "arguments", "cli"}
"""Modules at the root that are no vocabulary: the public API and the command line, which may import everything."""

MAY_IMPORT = {
    "vocabulary": {"vocabulary"},
    "data": {"vocabulary", "data"},
    "ops": {"ops"},
    "model": {"vocabulary", "model"},
    "loss": {"config", "data.batch", "model", "ops", "loss"},
    "metrics": {"vocabulary", "metrics"},
    "runtime": {"vocabulary", "data.batch", "model", "runtime"},
    "engine": {"vocabulary", "data", "ops", "model", "loss", "metrics", "runtime", "engine"},
    "export": {"vocabulary", "data", "model", "runtime", "engine", "export"},
    "serve": {"vocabulary", "engine", "serve"},
}
"""Part → parts or single modules it may import."""

WITHOUT_TORCH = ("vocabulary", "data", "metrics")
INTO_TORCH = {"detector.data.batch", "detector.data.loader"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def part_of(module: str) -> str:
    """The stage a module belongs to; of the modules at the root: "vocabulary" or "front"."""
    path = MODULES[module]
    if path.parent == PACKAGE:
        return "front" if path.stem in FRONT else "vocabulary"
    return path.relative_to(PACKAGE).parts[0]


def imports(path: Path, only_at_import: bool = False) -> Iterator[str]:
    """Every module a file imports, by its full name; `only_at_import` leaves out what stands in functions."""
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                # `from detector.data import coco` imports the module, `from detector.boxes import clip` a name.
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else str(node.module)
        elif not (only_at_import and (isinstance(node, ast.FunctionDef | ast.Lambda) or is_for_types(node))):
            todo += ast.iter_child_nodes(node)


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def of_detector(path: Path, only_at_import: bool = False) -> set[str]:
    return {module for module in imports(path, only_at_import) if module.split(".")[0] == "detector"}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_part_may(module: str) -> None:
    part = part_of(module)
    for imported in of_detector(MODULES[module]):
        assert imported in MODULES, f"{module} imports {imported}, which is not there"
        if part != "front":
            allowed = {part_of(imported), imported.removeprefix("detector.")} & MAY_IMPORT[part]
            assert allowed, f"{module} ({part}) must not import {imported} ({part_of(imported)})"


def test_every_folder_of_the_package_has_its_place_in_the_rule() -> None:
    assert {part_of(module) for module in MODULES} <= {*MAY_IMPORT, "front"}
    for folder in {path.parent for path in FILES}:
        assert (folder / "__init__.py").is_file(), f"{folder} lacks an __init__.py"


def test_there_is_no_ring_of_imports() -> None:
    graph = {module: of_detector(path) for module, path in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", [module for module in MODULES if part_of(module) in WITHOUT_TORCH])
def test_what_needs_no_torch_does_not_name_it(module: str) -> None:
    if module not in INTO_TORCH:
        imported = set(imports(MODULES[module]))
        assert not {name for name in imported if name.split(".")[0] in ("torch", "safetensors")}
        assert not imported & INTO_TORCH


def test_torch_is_not_loaded_by_the_vocabulary_the_readers_the_metrics_and_the_command_line() -> None:
    quiet = [m for m in MODULES if part_of(m) in WITHOUT_TORCH and m not in INTO_TORCH]
    names = ["detector", "detector.cli", *quiet]
    code = f"import sys, importlib\nfor name in {names}:\n    importlib.import_module(name)\n"
    code += "    assert 'torch' not in sys.modules, name"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("module", ["detector", "detector.cli"])
def test_the_front_reaches_engine_and_torch_only_when_a_verb_needs_them(module: str) -> None:
    parts = {part_of(imported) for imported in of_detector(MODULES[module], only_at_import=True)}
    assert parts <= {"vocabulary", "front"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_opens_with_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_no_file_is_a_drawer_for_odds_and_ends() -> None:
    ours = [*FILES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
    names = {path.stem.removeprefix("test_") for path in ours} | {path.parent.name for path in FILES}
    assert not names & {"utils", "util", "misc", "common", "helpers", "helper"}


def test_folders_that_would_shadow_other_packages_are_no_packages() -> None:
    # An importable top-level `datasets` would hide Hugging Face's; tests are collected by path.
    assert not list((ROOT / "datasets").rglob("__init__.py"))
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert not list((ROOT / "tools").rglob("__init__.py"))


def test_every_public_name_is_there_and_has_a_docstring() -> None:
    code = "import detector\nfor name in detector.__all__:\n    assert getattr(detector, name).__doc__, name"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = __import__("detector").nonsense
