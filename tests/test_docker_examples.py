"""The Docker files in examples/docker copy what exists, do not run as root, and are clean for hadolint."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "examples/docker").glob("*.Dockerfile"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_docker_file_installs_what_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    copied = [word for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert {project["readme"], "LICENSE", "pyproject.toml", "detector"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    extras = [name for names in re.findall(r'"\.\[([a-z,]+)\]"', text) for name in names.split(",")]
    assert extras
    assert set(extras) <= set(project["optional-dependencies"])
    assert re.search(r"^USER 1000$", text, re.MULTILINE)
    assert text.index("USER 1000") < text.index("ENTRYPOINT")


def test_docker_file_for_cpus_installs_no_cuda() -> None:
    text = (ROOT / "examples/docker/cpu.Dockerfile").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    torch = next(name for name in project["dependencies"] if name.startswith("torch"))
    assert f'"{torch}" --index-url https://download.pytorch.org/whl/cpu' in text
    assert text.index("whl/cpu") < text.index('".[onnx')


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_docker_file_is_clean_for_hadolint(path: Path) -> None:
    program = shutil.which("hadolint")
    if program is None:
        pytest.skip("needs hadolint: tools/test_extra.sh docker")
    done = subprocess.run([program, str(path)], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout
