"""All modules follow docs/architecture.md: which folder may import which, no cycles, and torch only where allowed."""

import ast
import graphlib
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "detector"
FILES = sorted(PACKAGE.rglob("*.py"))
ENTRY_POINTS = {"__init__", "__main__"}
"""Modules in the root folder of the package that do not belong to the vocabulary. They may import everything."""

MAY_IMPORT = {
    "vocabulary": set(),
    "data": {"vocabulary"},
    "augment": {"vocabulary"},
    "metrics": {"vocabulary"},
    "plots": {"vocabulary"},
    "ops": {"vocabulary"},
    "model": {"vocabulary", "ops"},
    "loader": {"vocabulary", "data", "augment"},
    "loss": {"vocabulary", "ops", "model", "loader.batch"},
    "graph": {"vocabulary", "ops", "model"},
    "runtime": {"vocabulary", "graph", "model", "loader.batch"},
    "predict": {"vocabulary", "ops", "graph", "runtime"},
    "analysis": {"vocabulary", "data", "ops", "metrics", "model", "loss", "runtime", "predict"},
    "media": {"vocabulary", "data"},
    "loggers": {"vocabulary"},
    "diagnose": {"vocabulary", "data", "augment", "loader", "model", "loss", "plots"},
}
"""Vocabulary or stage → parts of the package, or single modules, that this part may import besides itself."""

STAGES = set(MAY_IMPORT) - {"vocabulary"}
COMMANDS = {
    "evaluating": set(),
    "training": {"evaluating"},
    "checking": {"training", "evaluating"},
    "comparing": {"training", "evaluating"},
    "cross_validating": {"training", "evaluating"},
    "reviewing": {"cross_validating", "training", "evaluating"},
    "tuning": {"comparing", "training"},
    "exporting": {"evaluating"},
    "averaging": {"evaluating"},
    "explaining": {"evaluating"},
    "detecting": set(),
    "serving": set(),
    "describing": set(),
    "converting": set(),
    "restyling": set(),
}
"""Command → other commands that it may import. Every command may also import vocabulary and stages."""

WITHOUT_TORCH = {"vocabulary", "data", "augment", "metrics", "plots", "media", "loggers"}
LARGEST_FRACTION = 0.15
"""Largest fraction of the lines of the package in one folder, without its subfolders."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def part_of(module: str) -> str:
    """Return the part that a module belongs to: a folder of the package, "vocabulary" or "entry point"."""
    path = MODULES[module]
    if path.parent == PACKAGE:
        return "entry point" if path.stem in ENTRY_POINTS else "vocabulary"
    return path.relative_to(PACKAGE).parts[0]


def allowed_for(part: str) -> set[str]:
    if part in COMMANDS:
        return {"vocabulary"} | STAGES | COMMANDS[part]
    return MAY_IMPORT[part]


def imports(path: Path, only_at_import: bool = False) -> Iterator[str]:
    """Yield the full name of every module that a file imports.

    Args:
        path: the file.
        only_at_import: leave out imports inside functions and under `if TYPE_CHECKING`.
    """
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                # `from detector.data import ledger` imports a module, `from detector.boxes import clip` a function.
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)
        elif not (only_at_import and (isinstance(node, ast.FunctionDef | ast.Lambda) or is_for_types(node))):
            todo += ast.iter_child_nodes(node)


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def detector_imports(path: Path, only_at_import: bool = False) -> set[str]:
    return {module for module in imports(path, only_at_import) if module.split(".")[0] == "detector"}


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_what_its_folder_may(module: str) -> None:
    part = part_of(module)
    for imported in detector_imports(MODULES[module]):
        assert imported in MODULES, f"{module} imports {imported}, which does not exist"
        if part not in ("entry point", "cli", part_of(imported)):
            matches = {part_of(imported), imported.removeprefix("detector.")} & allowed_for(part)
            assert matches, f"{module} ({part}) must not import {imported} ({part_of(imported)})"


def test_every_folder_has_a_place_in_the_import_table() -> None:
    assert {part_of(module) for module in MODULES} == {*MAY_IMPORT, *COMMANDS, "cli", "entry point"}
    for folder in {path.parent for path in FILES}:
        assert (folder / "__init__.py").is_file(), f"{folder} has no __init__.py"


def test_no_two_modules_import_each_other() -> None:
    graph = {module: detector_imports(path) for module, path in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()


def test_no_two_folders_import_each_other() -> None:
    graph = defaultdict[str, set[str]](set)
    for module, path in MODULES.items():
        if path.parent == PACKAGE:
            continue
        graph[part_of(module)] |= {part_of(imported) for imported in detector_imports(path)} - {part_of(module)}
    graphlib.TopologicalSorter(graph).prepare()


def test_no_folder_holds_too_much_of_the_package() -> None:
    lines = defaultdict[Path, int](int)
    for path in FILES:
        lines[path.parent] += len(path.read_text(encoding="utf-8").splitlines())
    total = sum(lines.values())
    large = {
        str(folder): round(count / total, 2) for folder, count in lines.items() if count > LARGEST_FRACTION * total
    }
    assert not large


@pytest.mark.parametrize("module", [module for module in MODULES if part_of(module) in WITHOUT_TORCH])
def test_torch_free_modules_do_not_import_torch(module: str) -> None:
    imported = {name.split(".")[0] for name in imports(MODULES[module])}
    assert not imported & {"torch", "safetensors"}


def test_importing_torch_free_modules_does_not_load_torch() -> None:
    without_torch = [module for module in MODULES if part_of(module) in WITHOUT_TORCH]
    names = ["detector", "detector.cli.commands", *without_torch]
    code = f"import sys, importlib\nfor name in {names}:\n    importlib.import_module(name)\n"
    code += "    assert 'torch' not in sys.modules, name"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("module", ["detector", "detector.cli.commands", "detector.cli.parser"])
def test_entry_points_import_stages_only_when_needed(module: str) -> None:
    parts = {part_of(imported) for imported in detector_imports(MODULES[module], only_at_import=True)}
    assert parts <= {"vocabulary", "entry point", "cli"}


@pytest.mark.parametrize("seed", [0, 1])
def test_public_names_survive_importing_modules_in_any_order(seed: int) -> None:
    # After an import of a folder `detector/train/`, the name `detector.train` would be the folder, not the function.
    names = [module for module in MODULES if module != "detector.__main__"]
    random.Random(seed).shuffle(names)
    code = (
        "import detector, importlib\n"
        "public = {name: getattr(detector, name) for name in detector.__all__}\n"
        f"for module in {names}:\n    importlib.import_module(module)\n"
        "for name, value in public.items():\n    assert getattr(detector, name) is value, name\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_no_file_or_folder_has_a_catch_all_name() -> None:
    files = [*FILES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
    names = {path.stem.removeprefix("test_") for path in files} | {path.parent.name for path in FILES}
    assert not names & {"engine", "core", "utils", "util", "misc", "common", "helpers", "helper"}


def test_folders_that_would_shadow_other_packages_are_not_packages() -> None:
    # A top-level package `datasets` would hide the package `datasets` of Hugging Face. Files in `tests` and `tools` are
    # never imported by their package name.
    assert not list((ROOT / "datasets").rglob("__init__.py"))
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert not list((ROOT / "tools").rglob("__init__.py"))


def test_every_public_name_exists_and_has_a_docstring() -> None:
    code = "import detector\nfor name in detector.__all__:\n    assert getattr(detector, name).__doc__, name"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = __import__("detector").nonsense
