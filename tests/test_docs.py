"""What the documents promise is so."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

import detector
from detector.cli.parser import make_parser
from detector.config import Config, read_config
from detector.model.checkpoint import SHIPPED, load_weights

ROOT = Path(__file__).parents[1]


def _documented_settings() -> dict[str, object]:
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", (ROOT / "configs" / "README.md").read_text(), re.MULTILINE)
    return {key: yaml.safe_load(value) for key, value in rows}


def _as_yaml(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def test_configs_readme_names_every_setting_with_its_default_and_no_other() -> None:
    assert _documented_settings() == {setting.name: _as_yaml(setting.default) for setting in fields(Config)}


def test_the_default_configuration_file_spells_out_every_default() -> None:
    path = ROOT / "configs" / "nano.yaml"
    assert read_config(path) == Config()
    assert set(yaml.safe_load(path.read_text())) == {setting.name for setting in fields(Config)}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_reads(path: Path) -> None:
    read_config(path)


@pytest.mark.parametrize("document", ["README.md", "docs/results.md", "docs/weights.md"])
def test_every_command_in_the_documents_parses(document: str) -> None:
    verbs = "check|train|detect|evaluate|serve|export|verify|compare|summary"
    shown = rf"^(?:.*&& )?(?:\.venv/bin/)?detector ((?:{verbs}) .*)$"
    commands = re.findall(shown, (ROOT / document).read_text(), re.MULTILINE)
    assert commands
    for command in commands:
        make_parser().parse_args(command.split("#")[0].split())


def test_every_link_between_documents_leads_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_readme_shows_names_that_the_package_has() -> None:
    names = re.findall(r"from detector import (.+)", (ROOT / "README.md").read_text())
    assert names
    for name in names[0].split(", "):
        assert hasattr(detector, name)


def test_the_version_is_that_of_the_packaging() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == detector.__version__


@pytest.mark.parametrize("name", ["cells", "scenes"])
def test_shipped_weights_are_small_and_say_what_they_are(name: str) -> None:
    path = SHIPPED / f"{name}.safetensors"
    assert path.stat().st_size <= 4_000_000
    _, info = load_weights(name)
    assert info.class_names
    assert info.facts["images"]
    assert name in (ROOT / "docs" / "weights.md").read_text()
