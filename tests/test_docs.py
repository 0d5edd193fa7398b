"""Tests of the documentation: commands parse, Python snippets run, links exist, the settings reference is current."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

import detector
from detector import errors
from detector.cli.parser import COMMANDS, make_parser
from detector.config import Config, read_config
from detector.errors import InputError
from detector.model.checkpoint import load_weights, save_weights
from detector.score_decisions import ChosenThresholds, ScoreMap
from detector.shipped_weights import shipped_weights

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("docs/**/*.md")})
CODE = (ROOT / "detector", ROOT / "tests", ROOT / "tools", ROOT / "examples", ROOT / "docs", ROOT / "configs")

OLD_WORDS = re.compile(
    r"\b(pictures?|canvas(es)?|by heart|mend(s|ed|ing)?|dearer|colours?|coloured|mirrored|grey|centred?|neighbours?)\b"
    r"|what it comes to|of another make|without a word",
    re.IGNORECASE,
)
"""Words that this project does not use: docs/architecture.md and CONTRIBUTING.md list the standard terms."""

HTML_CANVAS = re.compile(r"\bcanvas\b", re.IGNORECASE)
"""The name of an HTML element, in .html files only."""


def in_fences(text: str, language: str) -> Iterator[str]:
    yield from re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_settings_reference_is_current() -> None:
    command = [sys.executable, str(ROOT / "tools" / "config_reference.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_nano_yaml_lists_every_default() -> None:
    path = ROOT / "configs" / "nano.yaml"
    assert read_config(path) == Config()
    assert set(yaml.safe_load(path.read_text())) == {setting.name for setting in fields(Config)}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    read_config(path)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_in_the_docs_parses(path: Path) -> None:
    names = "|".join(COMMANDS)
    pattern = rf"^(?:.*&& )?(?:\.venv/bin/)?detector ((?:{names}) .*)$"
    for block in in_fences(path.read_text(encoding="utf-8"), "[a-z]*"):
        for command in re.findall(pattern, block.replace("\\\n", " "), re.MULTILINE):
            arguments = (
                re.sub(r"\$\w+", "1", command).split("#")[0].split(" > ")[0].split()
            )  # the value of a variable of the shell
            make_parser().parse_args([argument for argument in arguments if argument != "..."])


SNIPPETS = [(path, code) for path in DOCUMENTS for code in in_fences(path.read_text(encoding="utf-8"), "python")]
QUOTED = "CONTRIBUTING.md"
"""Its Python snippets are quotations from the package, not programs."""

FASTER = {
    "detector.Config(minutes=1)": 'detector.Config(steps=3, model="pico", batch=4, evaluations=1)',
    'detector.Config(model="small", steps=500, flip_vertical=0.5)': (
        'detector.Config(model="pico", steps=3, batch=4, evaluations=1, flip_vertical=0.5)'
    ),
    "detector.Config(steps=500, repeat_factor=0.1)": (
        'detector.Config(model="pico", steps=3, batch=4, evaluations=1, repeat_factor=0.1)'
    ),
    "minutes_total=60": (
        'base=detector.Config(model="pico", steps=3, batch=4), minutes_total=1000, trials=1, seeds=2, weights=None'
    ),
}
"""Code in snippets → what replaces it in the tests, so that they take seconds instead of minutes."""


@pytest.fixture(scope="session")
def tiny_graph(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny weights as an ONNX file."""
    path = tmp_path_factory.mktemp("graph") / "tiny.onnx"
    detector.export(tiny_weights, path, certify=False)
    return path


@pytest.fixture(scope="session")
def decided_weights(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny weights with thresholds and a map to probabilities."""
    path = tmp_path_factory.mktemp("decided") / "mine.safetensors"
    network, info = load_weights(tiny_weights)
    chosen = ChosenThresholds((0.5,) * len(info.class_names), "a goal")
    save_weights(path, network, replace(info, thresholds=chosen, score_map=ScoreMap(3.0, 0.0)))
    return path


OPTIONAL = ("celery", "dask", "fastapi", "joblib")
"""Packages that some snippets use and that the tests do not need. The snippets run where the packages are installed."""


@pytest.mark.parametrize("code", [code for path, code in SNIPPETS if path.name != QUOTED], ids=lambda code: code[:40])
def test_every_python_snippet_in_the_docs_runs(
    code: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if "detector.tune(" in code:
        pytest.importorskip("optuna", reason="needs the extra tune: tools/test_extra.sh tune")
    for package in OPTIONAL:
        if re.search(rf"^from {package}\b", code, re.MULTILINE):
            pytest.importorskip(package)
    if "mine.onnx" in code:
        (tmp_path / "mine.onnx").symlink_to(request.getfixturevalue("tiny_graph"))
    if "mine.safetensors" in code:
        shutil.copy(request.getfixturevalue("decided_weights"), tmp_path / "mine.safetensors")
    (tmp_path / "my_images").symlink_to(tiny_data)
    if '"more_images"' in code:  # a copy: the same folder is not accepted twice
        shutil.copytree(tiny_data, tmp_path / "more_images")
    for name in ("image.jpg", "smear.jpg"):
        (tmp_path / name).symlink_to(tiny_data / "images" / "1.png")
    for slow, fast in FASTER.items():
        code = code.replace(slow, fast)
    monkeypatch.chdir(tmp_path)
    if "__main__" in code:  # a program that starts processes
        (tmp_path / "program.py").write_text(code)
        subprocess.run([sys.executable, "program.py"], timeout=300, check=True)
        return
    exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})


def test_quoted_code_is_in_the_package() -> None:
    modules = [path.read_text(encoding="utf-8") for path in (ROOT / "detector").rglob("*.py")]
    for code in [code for path, code in SNIPPETS if path.name == QUOTED]:
        assert any(code in module for module in modules)


def test_the_docs_have_python_snippets() -> None:
    assert {path.name for path, _ in SNIPPETS} >= {"README.md", "python.md", QUOTED}
    for slow in FASTER:
        assert any(slow in code for _, code in SNIPPETS)


def test_every_link_between_documents_exists() -> None:
    for document in DOCUMENTS:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", document.read_text(encoding="utf-8")):
            path = document.parent / target if target else document
            assert path.exists(), f"{document.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {"#" + re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
                assert anchor in anchors, f"{document.name}: {target}{anchor}"


def test_api_reference_has_every_public_name() -> None:
    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    for name in detector.__all__:
        assert f"::: detector.{name}\n" in reference or f"- {name}\n" in reference, name


def test_troubleshooting_describes_every_error() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    kinds = [name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, InputError)]
    for name in kinds:
        assert f"\n## {name}\n" in text, name


def test_messages_in_troubleshooting_exist() -> None:
    constants = [
        node.value
        for path in (ROOT / "detector").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| message contains .*\n\|.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    for row in "".join(tables).splitlines():
        for message in re.findall("`([^`]+)`", row.split("|")[1]):
            for part in re.split(r"\.\.\.|'\w+'|\d+x\d+", message):  # what differs from case to case
                assert any(part.strip() in constant for constant in constants), message


def test_old_words_do_not_come_back() -> None:
    files = [*ROOT.glob("*.md"), *(path for folder in CODE for path in folder.rglob("*"))]
    found = []
    for path in files:
        is_text = path.suffix in (".py", ".md", ".yaml", ".txt", ".html", ".cpp")
        if not is_text or path.name.endswith("old_metadata.py") or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            text = HTML_CANVAS.sub("", line) if path.suffix == ".html" else line
            if OLD_WORDS.search(text):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "term",
    [
        "TTA",
        "test-time augmentation",
        "QAT",
        "quantization-aware training",
        "FPN",
        "SPP",
        "anchor-free",
        "data loader",
        "hyperparameter",
        "telemetry",
        "early stopping",
        "letterbox",
        "EMA",
    ],
)
def test_terms_of_the_field_are_found_by_searching(term: str) -> None:
    texts = [path.read_text(encoding="utf-8") for path in [*DOCUMENTS, *(ROOT / "detector").rglob("*.py")]]
    assert any(term.lower() in text.lower() for text in texts)


@pytest.mark.parametrize("name", ["cells", "everyday", "scenes"])
def test_shipped_weights_are_small_and_documented(name: str) -> None:
    path = shipped_weights()[name]
    assert path.stat().st_size <= 4_000_000
    _, info = load_weights(name)
    assert info.class_names
    assert info.facts["images"]
    assert name in (ROOT / "docs" / "weights.md").read_text()


def test_public_ci_runs_the_test_command_of_the_readme() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [step["run"].replace("'", '"') for step in workflow["jobs"]["tests"]["steps"] if "run" in step]
    assert " && ".join([".venv/bin/" + command for command in commands[:2]]) in readme
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]


def test_installation_of_pytorch_is_described_in_the_same_words() -> None:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/quickstart.md", "docs/usage.md")]
    paragraphs = {re.findall(r"^\*\*PyTorch\.\*\* .*?\n\n", text, re.MULTILINE | re.DOTALL)[0] for text in texts}
    assert len(paragraphs) == 1
    assert "--extra-index-url https://download.pytorch.org/whl/cpu" in paragraphs.pop()


def test_no_file_of_the_repository_is_ignored() -> None:
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--ignored", "--exclude-standard"]
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a clone of the repository")
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""
