"""Build the sdist and the wheel, check what is in them, and use the wheel in a bare environment outside the repository.

Usage: python tools/test_package.py [FOLDER]

The files are left in FOLDER (default: a temporary folder). This needs the package `build`.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SDIST = {
    ".gitignore", "CHANGELOG.md", "CITATION.cff", "LICENSE", "PKG-INFO", "README.md", "configs", "detector",
    "pyproject.toml",
}  # fmt: skip
"""Everything that the sdist contains."""

MEGABYTES = 12
"""Largest size of a file; nearly all of it is the shipped weights."""

IMAGE = "import numpy, PIL.Image; PIL.Image.fromarray(numpy.full((64, 96, 3), 90, numpy.uint8)).save('smear.png')"


def main() -> int:
    """Build, check and use the package; return the exit status."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        out = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else folder / "dist"
        # The sdist is built from the repository, and the wheel from the sdist.
        run([sys.executable, "-m", "build", "--outdir", out, ROOT], folder)
        (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
        problems = check_sdist(sdist) + check_wheel(wheel)
        for path in (sdist, wheel):
            print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
            if path.stat().st_size > MEGABYTES * 1e6:
                problems.append(f"{path.name}: larger than {MEGABYTES} MB")
        if not problems:
            use(wheel, folder)
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


def check_sdist(path: Path) -> list[str]:
    """Return what is wrong with the content of the sdist."""
    with tarfile.open(path) as file:
        names = [name.partition("/")[2] for name in file.getnames()]
    top = {name.partition("/")[0] for name in names if name}
    junk = [name for name in names if "__pycache__" in name]
    return [f"{path.name}: contains {name}" for name in [*sorted(top - SDIST), *junk]] + [
        f"{path.name}: lacks {name}" for name in sorted(SDIST - top)
    ]


def check_wheel(path: Path) -> list[str]:
    """Return what is wrong with the content of the wheel: it contains the package with all its files, and nothing else.

    The settings files of the repository are in the subfolder configs/ of the package.
    """
    with zipfile.ZipFile(path) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    places = {ROOT / "detector": "detector", ROOT / "configs": "detector/configs"}
    expected = {
        f"{place}/{file.relative_to(folder).as_posix()}"
        for folder, place in places.items()
        for file in folder.rglob("*")
        if file.is_file() and file.parent.name != "__pycache__"
    }
    weights = {name for name in names if name.startswith("detector/weights/") and name.endswith(".safetensors")}
    assert weights
    assert {"detector/py.typed", "detector/configs/nano.yaml", "detector/configs/config.schema.json"} <= expected
    return [f"{path.name}: contains {name}" for name in sorted(names - expected)] + [
        f"{path.name}: lacks {name}" for name in sorted(expected - names)
    ]


def use(wheel: Path, folder: Path) -> None:
    """Install the wheel without extras in a new environment, and run commands in an empty folder."""
    place = folder / "environment"
    venv.create(place, with_pip=True)
    scripts = place / ("Scripts" if os.name == "nt" else "bin")
    run([scripts / "python", "-m", "pip", "install", "-q", wheel], folder)
    empty = folder / "empty"
    empty.mkdir()
    version = wheel.name.split("-")[1]
    assert run([scripts / "detector", "--version"], empty).strip() == version
    assert version in run([scripts / "detector", "info"], empty)
    assert "complete " in run([scripts / "detector", "completion", "bash"], empty)
    run([scripts / "python", "-W", "error", "-c", IMAGE], empty)
    run([scripts / "detector", "detect", "smear.png", "--weights", "scenes", "--out", "found", "--csv"], empty)
    assert {"smear.png", "detections.csv"} <= {path.name for path in (empty / "found").iterdir()}
    place_of_import = run([scripts / "python", "-c", "import detector; print(detector.__file__)"], empty).strip()
    assert Path(place_of_import).is_relative_to(place), place_of_import


def run(command: list[str | Path], folder: Path) -> str:
    """Run a command in a folder and return what it printed; raise CalledProcessError if it fails."""
    print("+ " + " ".join(map(str, command)), flush=True)
    environment = {name: value for name, value in os.environ.items() if not re.fullmatch("PYTHON(PATH|HOME)", name)}
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=environment | {"PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
