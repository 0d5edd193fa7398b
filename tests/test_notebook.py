"""The notebook in examples/: its code runs with plain Python, and where Jupyter is installed, with a kernel.

Jupyter is not in the extra `dev`: tools/test_extra.sh notebook
"""

import ast
import json
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import detector
from detector import AveragePrecision, Detections

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"
HAS_JUPYTER = find_spec("nbclient") is not None and find_spec("ipykernel") is not None

LARGEST = 200_000
"""Largest size of a notebook with its outputs, in bytes."""


def cells() -> list[str]:
    """Return the code cells, with a tiny dataset and few steps."""
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]
    for slow, fast in (
        ('data = "scenes"', 'data = "my_images"'),
        ("detector.Config(minutes=1)", 'detector.Config(steps=12, model="pico", batch=4, evaluations=2, device="cpu")'),
    ):
        assert slow in code[0]
        code[0] = code[0].replace(slow, fast)
    return code


class Display:
    """Stands for a place in the output of a notebook."""

    def __init__(self, shown: list[Any]) -> None:
        self._shown = shown

    def update(self, value: Any) -> None:
        self._shown.append(value)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand in for IPython.display, which is part of Jupyter; return what is displayed."""
    found: list[Any] = []

    def display(value: Any, display_id: bool = False) -> Display:
        found.append(value)
        return Display(found)

    module = ModuleType("IPython.display")
    vars(module).update(display=display, HTML=str, SVG=str)
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return found


@pytest.fixture
def folder(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_images").symlink_to(tiny_data)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_cell(code: str, names: dict[str, Any]) -> Any:
    """Run a cell, and return the value of its last expression, which a notebook shows."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, NOTEBOOK.name, "exec"), names)
    if last is None:
        return None
    assert isinstance(last, ast.Expr)
    return eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names)


def test_every_cell_runs_and_its_result_is_shown(folder: Path, shown: list[Any]) -> None:
    pytest.importorskip("onnx")
    names: dict[str, Any] = {}
    values = [run_cell(code, names) for code in cells()]
    results = [value for value in values if value is not None]
    assert [type(value).__name__ for value in results] == [
        "CheckReport",
        "TrainingResult",
        "AveragePrecision",
        "str",
        "Detections",
        "VerifyResult",
    ]
    tables = [value._repr_html_() for value in results if not isinstance(value, str)]
    assert all(table.startswith("<table>") and table.endswith("</table>") for table in tables)
    charts = [value for value in shown if isinstance(value, str) and value.startswith("<svg")]
    assert len(charts) == 1 + 2  # after 10 steps, and after each evaluation
    assert results[3].startswith("<iframe srcdoc=")
    assert (folder / "runs" / "quickstart.onnx").is_file()


@pytest.mark.skipif(not HAS_JUPYTER, reason="needs the extra notebook: tools/test_extra.sh notebook")
def test_notebook_runs_in_jupyter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A process of its own: the client talks to the kernel over sockets, which the tests of this process refuse.
    import subprocess

    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = iter(cells())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["source"] = next(code)
    (folder / "quickstart.ipynb").write_text(json.dumps(notebook))
    program = (
        "import nbformat, nbclient\n"
        "notebook = nbformat.read('quickstart.ipynb', as_version=4)\n"
        "nbformat.validate(notebook)\n"
        "nbclient.NotebookClient(notebook, timeout=600, kernel_name='python3').execute()\n"
        "nbformat.write(notebook, 'done.ipynb')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    executed = [cell for cell in json.loads((folder / "done.ipynb").read_text())["cells"] if "outputs" in cell]
    kinds = [{kind for output in cell["outputs"] for kind in output.get("data", {})} for cell in executed]
    assert "text/html" in kinds[1]
    assert {"image/svg+xml", "text/html"} <= kinds[2]  # the live plot, and the table of the result
    assert {"image/png", "text/html"} <= kinds[5]  # the drawn image, and the table of the detections
    assert "text/html" in kinds[6]


def test_notebook_is_small() -> None:
    assert NOTEBOOK.stat().st_size < LARGEST


def metrics(per_class: dict[str, dict[str, float]]) -> AveragePrecision:
    values = {field.name: 0.5 for field in fields(AveragePrecision) if field.name.startswith("A")}
    return AveragePrecision(**values, per_class=per_class, many=None, intervals=None)


def test_tables_escape_the_names_of_classes() -> None:
    table = metrics({"<b>": {"AP": 0.25, "AP50": -1, "objects": 3}})._repr_html_()
    assert "<td>AP of &lt;b&gt;</td><td>0.250</td><td></td><td>3</td>" in table
    assert "<b>" not in table


def test_table_of_many_classes_is_short() -> None:
    classes = {f"class {index}": {"AP": 0.5, "AP50": 0.5, "objects": 1} for index in range(500)}
    table = metrics(classes)._repr_html_()
    assert table.count("<tr>") == 1 + 3 + 40
    assert "the first 40 of 500 classes" in table


def test_public_results_are_shown_as_tables() -> None:
    for kind in (AveragePrecision, Detections, detector.TrainingResult):
        assert callable(kind._repr_html_)
