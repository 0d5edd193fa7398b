from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector import images
from detector.data import scenes
from detector.engine.sources import Source, find_sources, not_done
from detector.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four pictures, one of them in a subfolder, and a text file."""
    for level, name in enumerate(("b.png", "a.JPG", "c 1.bmp", "sub/d.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        images.write(tmp_path / name, np.full((4, 5, 3), level * 50, np.uint8))
    (tmp_path / "notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*words: str) -> list[str]:
    return [source.name.as_posix() for source in find_sources(words)]


def test_a_folder_stands_for_its_own_pictures_by_name(folder: Path) -> None:
    assert names(".") == ["a.JPG", "b.png", "c 1.bmp"]
    assert names("sub") == ["sub/d.png"]


def test_patterns_are_understood_also_absolute_ones_and_deep_ones(folder: Path) -> None:
    assert names("*.png") == ["b.png"]
    assert names(f"{folder}/?.png") == [f"{folder}/b.png"]
    assert names("*/*.png") == ["sub/d.png"]


def test_files_come_in_the_order_they_are_named_and_each_once(folder: Path) -> None:
    assert names("sub/d.png", "b.png", "*.png", ".") == ["sub/d.png", "b.png", "a.JPG", "c 1.bmp"]


def test_a_name_with_the_signs_of_a_pattern_is_a_file_first(folder: Path) -> None:
    (folder / "b.png").rename(folder / "[b].png")
    assert names("[b].png") == ["[b].png"]


def test_each_source_reads_its_own_picture(folder: Path) -> None:
    levels = [int(source.read()[0, 0, 0]) for source in find_sources(["b.png", "c 1.bmp", "sub/d.png"])]
    assert levels == [0, 100, 150]


def test_the_word_scenes_stands_for_a_dozen_pictures_of_the_built_in_set(folder: Path) -> None:
    sources = find_sources(["scenes", "b.png"])
    assert len(sources) == 13
    assert len({source.name for source in sources}) == 13
    assert np.array_equal(sources[3].read(), scenes.render("test", 3).image)


def test_a_folder_called_scenes_goes_before_the_built_in_set(folder: Path) -> None:
    (folder / "sub").rename(folder / "scenes")
    assert names("scenes") == ["scenes/d.png"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("z.png", "z.png: no such file, folder or pattern"),
        ("*.tiff", r"\*.tiff: no such file, folder or pattern"),
        ("empty", "empty: no pictures in this folder"),
    ],
)
def test_a_word_that_names_nothing_is_refused(folder: Path, word: str, message: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        find_sources(["b.png", word])


def test_a_file_that_is_no_picture_is_a_source_that_does_not_read(folder: Path) -> None:
    [source] = find_sources(["notes.txt"])
    with pytest.raises(InputError, match=r"notes\.txt: not a picture"):
        source.read()


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 9))
def test_what_is_not_done_comes_in_whole_batches_of_the_unbroken_run(is_done: list[bool], batch: int) -> None:
    sources = [Source(Path(f"{index}.png"), lambda: np.zeros((1, 1, 3), np.uint8)) for index in range(len(is_done))]
    done = {f"{index}.png" for index, so in enumerate(is_done) if so}
    left = [sources.index(source) for source in not_done(sources, done, batch)]
    wanted = {index // batch for index, so in enumerate(is_done) if not so}
    assert left == [index for index in range(len(sources)) if index // batch in wanted]
