from pathlib import Path

import numpy as np
import pytest

from detector.config import RuntimeName
from detector.engine.export import export
from detector.engine.sources import Source, find_sources
from detector.errors import InputError
from detector.runtime.load import load_runtime


@pytest.fixture(scope="module")
def pictures(tiny_data: Path) -> list[Source]:
    return find_sources([str(tiny_data / "images")])


@pytest.fixture(scope="module")
def graphs(tiny_weights: Path, pictures: list[Source], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("int8")
    export(tiny_weights, folder / "plain.onnx")
    export(tiny_weights, folder / "int8.onnx", int8_pictures=pictures)
    return folder / "plain.onnx", folder / "int8.onnx"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_eight_bits_answer_nearly_alike_in_a_fraction_of_the_bytes(
    runtime: RuntimeName, graphs: tuple[Path, Path], pictures: list[Source]
) -> None:
    (plain, info), (small, small_info) = (load_runtime(graph, runtime) for graph in graphs)
    assert small_info == info
    assert graphs[1].stat().st_size < 0.5 * graphs[0].stat().st_size
    canvases = [source.read() for source in pictures[:4]]
    one, two = plain.predict(canvases), small.predict(canvases)
    assert not np.array_equal(one.scores, two.scores)
    assert np.abs(one.scores - two.scores).max() < 0.2
    sure = one.scores.max(axis=2) > 0.5
    assert np.median(np.abs(one.boxes - two.boxes)[sure]) < 1


def test_too_few_pictures_to_see_the_ranges_on_are_refused(
    tiny_weights: Path, pictures: list[Source], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="3 pictures are too few"):
        export(tiny_weights, tmp_path / "int8.onnx", int8_pictures=pictures[:3])
    assert not list(tmp_path.iterdir())
