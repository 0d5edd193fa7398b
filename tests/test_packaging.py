"""Tests of what belongs to a release: names and versions in one place, pinned actions, files of the repository."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import detector

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
TEXTS = [
    path
    for folder in ("detector", "docs", "tests", ".github", "tools")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".md", ".yml", ".sh")
] + sorted(ROOT.glob("*.md"))


def test_version_is_written_in_one_place() -> None:
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "detector/version.py"
    assert f'VERSION = "{detector.__version__}"' in (ROOT / "detector" / "version.py").read_text(encoding="utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == detector.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(detector.__version__)}\b", changelog, re.MULTILINE)


def test_package_is_installed_by_its_own_name() -> None:
    name = PYPROJECT["project"]["name"]
    assert name != "detector"  # on PyPI, a package of somebody else
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        for other, extras in re.findall(r"""pip install [\w' "=<>-]*?\b([\w-]*detector)\\?\[([\w,]+)""", text):
            assert other == name, f"{path}: {other}[{extras}]"
            assert set(extras.split(",")) <= EXTRAS.keys(), f"{path}: {extras}"


def test_extras_name_this_package() -> None:
    own = [re.match(r"([\w-]*detector)\[", package) for packages in EXTRAS.values() for package in packages]
    assert {match[1] for match in own if match} == {PYPROJECT["project"]["name"]}


def test_actions_of_workflows_are_pinned_to_commits() -> None:
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if "uses:" in line:
                assert re.search(r"uses: [\w./-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+$", line), f"{path.name}: {line}"


def test_pre_commit_uses_the_ruff_of_the_gate() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    used = {package for hook in hooks for package in hook.get("additional_dependencies", [])}
    assert used == {package for package in EXTRAS["dev"] if package.startswith("ruff")}


def test_supported_pythons_are_tested_and_listed() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    tested = workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]
    listed = [
        match[1]
        for classifier in PYPROJECT["project"]["classifiers"]
        if (match := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", classifier))
    ]
    assert tested == listed
    assert PYPROJECT["project"]["requires-python"] == f">={listed[0]}"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize(
    "arguments", ["--help", "train --help", "info", "completion fish", "detect 细胞.png --weights x"]
)
def test_output_in_any_encoding_is_no_error(arguments: str, encoding: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "detector", *arguments.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == (2 if "细胞" in arguments else 0), done.stderr
    text = (done.stdout + done.stderr).decode(encoding)
    assert "Traceback" not in text
    assert "\\u7ec6\\u80de.png: no such file" in text or done.returncode == 0


def test_text_files_are_read_and_written_with_an_encoding() -> None:
    for path in sorted((ROOT / "detector").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute | ast.Name):
                continue
            name = ast.unparse(call.func)
            mode = next((arg.value for arg in call.args if isinstance(arg, ast.Constant)), "")
            is_text = name.endswith((".read_text", ".write_text")) or (
                name.rpartition(".")[2] in ("open", "fdopen")
                and isinstance(mode, str)
                and set(mode) in ({"r"}, {"w"}, {"x"}, {"a"})
            )
            if is_text and "store" not in name:
                assert any(keyword.arg == "encoding" for keyword in call.keywords), f"{path}:{call.lineno}: {name}"
