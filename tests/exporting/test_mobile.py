"""Exports for phones and small devices: LiteRT, ncnn, Core ML; skipped without their packages (tools/test_extra.sh)."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from detector.data.scenes import scenes
from detector.errors import ConfigError, FileError, WeightsError
from detector.exporting.certificate import certificate_path, read_certificate
from detector.exporting.export import ExportResult, export
from detector.exporting.verify import verify
from detector.graph.export_format import Format
from detector.graph.graph_module import LevelsModule
from detector.images import write_image
from detector.model.checkpoint import load_weights
from detector.predict.detector import Detector

EXAMPLES = Path(__file__).parents[2] / "examples"
MODULES: dict[Format, str] = {"ncnn": "pnnx", "litert": "litert_torch", "coreml": "coremltools"}
NAMES: dict[Format, str] = {"ncnn": "scenes_ncnn", "litert": "scenes.tflite", "coreml": "scenes.mlpackage"}
SIZE = 160

Exporter = Callable[..., ExportResult]


@pytest.fixture(scope="module", params=["ncnn", "litert"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """Export `scenes` in float32 to each format that runs here, with a certificate."""
    format: Format = request.param
    pytest.importorskip(MODULES[format])
    return export("scenes", tmp_path_factory.mktemp("export") / NAMES[format], format=format, input_size=SIZE)


def images(count: int) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    return [scenes.render("test", index).image for index in range(count)]


def changed_byte(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def files_of(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path, certificate_path(path)]


def copied(result: ExportResult, folder: Path) -> Path:
    """Copy an export and its certificate to a folder; return the path of the copy."""
    copy = folder / result.path.name
    if result.path.is_dir():
        shutil.copytree(result.path, copy)
    else:
        shutil.copy(result.path, copy)
        shutil.copy(result.certificate_path, certificate_path(copy))
    return copy


def test_export_is_exact_and_verified(exported: ExportResult) -> None:
    assert exported.certificate is not None
    assert exported.certificate.exact
    assert exported.certificate.parity["built-in images"].is_within_rounding
    assert exported.certificate.parity["built-in images"].detections > 100
    assert verify(exported.path).parity.is_within_rounding
    name = exported.certificate.runtime.split()[0]
    assert exported.certificate.valid_for == f"{name} on every CPU"


def test_export_has_all_metadata_of_the_weights(exported: ExportResult) -> None:
    info = Detector.load(exported.path).info
    expected = load_weights("scenes")[1]
    assert info.input_hw == exported.input_hw == (128, 160)
    assert (info.class_names, info.category_ids) == (expected.class_names, expected.category_ids)
    assert info.config == expected.config
    assert info.thresholds == expected.thresholds


def test_threads_that_share_a_detector_get_their_own_images(exported: ExportResult) -> None:
    detector = Detector.load(exported.path, threads=1)
    samples = images(24)
    alone = [detector.detect(image, score_threshold=0.1) for image in samples]
    assert len({tuple(found.scores) for found in alone}) > 20  # the images have different detections
    order = [index for _ in range(6) for index in range(len(samples))]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda index: detector.detect(samples[index], score_threshold=0.1), order))
    for index, found in zip(order, together, strict=True):
        assert np.array_equal(found.boxes, alone[index].boxes)
        assert np.array_equal(found.scores, alone[index].scores)


FORK = """
import multiprocessing, sys
import numpy as np
from detector.data.scenes import scenes
from detector.predict.detector import Detector
detector = Detector.load(sys.argv[1], threads=int(sys.argv[2]))
image = scenes.render("test", 0).image
expected = detector.detect(image).boxes
context = multiprocessing.get_context("fork")
receiver, sender = context.Pipe(duplex=False)
process = context.Process(target=lambda: sender.send(detector.detect(image).boxes), daemon=True)
process.start()
assert receiver.poll(100), "the forked process waits forever"
assert len(expected) and np.allclose(receiver.recv(), expected, atol=0.01)
process.join(100)
assert process.exitcode == 0
assert np.array_equal(detector.detect(image).boxes, expected)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks are usual only on Linux")
@pytest.mark.parametrize("threads", [1, 2])
def test_forked_process_detects_the_same(exported: ExportResult, threads: int) -> None:
    # In a new process: this one has imported converters, such as JAX, whose threads do not survive a fork.
    subprocess.run([sys.executable, "-c", FORK, str(exported.path), str(threads)], check=True, timeout=200)


def test_several_images_in_one_batch_are_separate(exported: ExportResult) -> None:
    detector = Detector.load(exported.path)
    samples = images(5)
    for found, image in zip(detector.detect(samples, batch_size=5), samples, strict=True):
        assert np.array_equal(found.boxes, detector.detect(image).boxes)


def test_changed_byte_anywhere_is_an_error(exported: ExportResult, tmp_path: Path) -> None:
    for number, name in enumerate(file.name for file in files_of(exported.path)):
        if name.endswith("certificate.json"):
            continue
        for position in (20, -3):
            folder = tmp_path / f"{number}{position}"
            folder.mkdir()
            copy = copied(exported, folder)
            changed_byte(copy / name if copy.is_dir() else copy, position)
            with pytest.raises((WeightsError, FileError), match=r"damaged|changed|does not belong|no metadata"):
                Detector.load(copy)
            with pytest.raises((WeightsError, FileError)):
                verify(copy)


def test_truncated_export_is_an_error(exported: ExportResult, tmp_path: Path) -> None:
    copy = copied(exported, tmp_path)
    largest = max(files_of(copy), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"no metadata|does not belong"):
        Detector.load(copy)


def test_other_input_size_is_an_error(exported: ExportResult) -> None:
    with pytest.raises(WeightsError, match="fixed input size of 160 pixels"):
        Detector.load(exported.path, input_size=192)
    assert Detector.load(exported.path, input_size=SIZE).input_hw == (128, 160)


def test_changed_export_is_not_overwritten(exported: ExportResult, tmp_path: Path) -> None:
    copy = copied(exported, tmp_path)
    largest = max(files_of(copy), key=lambda file: file.stat().st_size)
    changed_byte(largest, 30)
    before = largest.read_bytes()
    format: Format = "ncnn" if copy.is_dir() else "litert"
    with pytest.raises(FileError, match="not overwritten"):
        export("scenes", copy, format=format, input_size=SIZE)
    assert largest.read_bytes() == before


def test_example_program_gives_the_same_detections(exported: ExportResult, tmp_path: Path) -> None:
    program = EXAMPLES / ("python_ncnn.py" if exported.path.is_dir() else "python_litert.py")
    assert "detector" not in {
        line.split()[1].split(".")[0]
        for line in program.read_text().splitlines()
        if line.startswith(("import ", "from "))
    }
    detector = Detector.load(exported.path)
    for index, image in enumerate(
        (images(1)[0], np.tile(images(2)[1], (2, 2, 1))[:512, :640], images(3)[2][50:90, 60:130])
    ):
        path = tmp_path / f"{index}.png"
        write_image(path, np.ascontiguousarray(image))
        done = subprocess.run(
            [sys.executable, str(program), str(exported.path), str(path), "--json"],
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        )
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        found = detector.detect(path)
        assert [row["class"] for row in rows] == [detector.class_names[i] for i in found.class_ids]
        assert np.allclose([row["score"] for row in rows], found.scores, atol=0.005)
        assert np.allclose(np.array([row["box"] for row in rows]).reshape(-1, 4), found.boxes, atol=0.1)


@pytest.mark.parametrize("format", ["ncnn", "litert"])
def test_float16_export_detects_the_same_objects(format: Format, tmp_path: Path) -> None:
    pytest.importorskip(MODULES[format])
    result = export("scenes", tmp_path / NAMES[format], format=format, input_size=SIZE, fp16=True)
    assert result.certificate is not None
    assert result.certificate.graph.fp16
    assert not result.certificate.exact
    assert result.certificate.parity["built-in images"].agrees
    assert result.megabytes < 3.5
    assert verify(result.path).parity.unmatched <= 2


def test_litert_int8_export_is_certified(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    (tmp_path / "images").mkdir()
    for index in range(24):
        write_image(tmp_path / f"images/{index}.png", scenes.render("train", index).image)
    result = export(
        "scenes",
        tmp_path / "int8.tflite",
        format="litert",
        input_size=SIZE,
        int8_images=[tmp_path / "images"],
        certificate_images=[tmp_path / "images"],
    )
    assert result.certificate is not None
    assert result.certificate.graph.int8
    assert result.certificate.int8_agrees
    assert result.megabytes < 2
    assert "on every CPU" in result.certificate.valid_for
    assert verify(result.path).parity.is_within_int8_rounding


def test_wrong_conversion_by_litert_torch_is_detected() -> None:
    pytest.importorskip("litert_torch")
    from detector.graph import to_litert

    module = to_litert._Named(load_weights("scenes")[0], (64, 64)).eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8))
    model = to_litert._convert(module, image)
    to_litert._check(model, module, image)
    block = module.computation.network.get_submodule("backbone.stages.1.2.conv")
    block.weight.data = module.computation.network.get_submodule("backbone.stages.1.1.conv").weight.data
    with pytest.raises(WeightsError, match="computes other"):
        to_litert._check(model, module, image)


def run_mil(package: Path, levels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Run the program in a Core ML package with PyTorch, operation by operation; an independent reference."""
    import coremltools
    from coremltools.converters.mil.frontend.milproto.load import load

    model = coremltools.models.MLModel(str(package), skip_model_load=True)
    spec = model.get_spec()
    function = load(spec, spec.specificationVersion, model.weights_dir).functions["main"]
    values: dict[str, torch.Tensor] = {next(iter(function.inputs)): levels}

    def get(op: Any, name: str) -> Any:
        variable = op.inputs.get(name)
        if isinstance(variable, tuple | list):
            return [
                values[one.name] if one.name in values else torch.from_numpy(np.asarray(one.val)) for one in variable
            ]
        if variable is None or variable.name in values:
            return None if variable is None else values[variable.name]
        value = variable.val
        return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value

    def conv(op: Any) -> torch.Tensor:
        padding = {"valid": [0, 0, 0, 0], "custom": get(op, "pad")}[get(op, "pad_type")]
        top, bottom, left, right = (int(side) for side in padding)
        stride = [int(side) for side in get(op, "strides")]
        weight, bias = get(op, "weight").float(), get(op, "bias")
        return F.conv2d(
            F.pad(get(op, "x"), (left, right, top, bottom)), weight, None if bias is None else bias.float(), stride
        )

    def sliced(op: Any) -> Any:
        x = get(op, "x")
        masks = [get(op, name) for name in ("begin_mask", "end_mask")]
        begin, end = get(op, "begin"), get(op, "end")
        index = []
        for axis in range(x.ndim):
            low = 0 if masks[0] is not None and masks[0][axis] else int(begin[axis])
            high = x.shape[axis] if masks[1] is not None and masks[1][axis] else int(end[axis])
            index.append(slice(low, high))
        return x[tuple(index)]

    operations: dict[str, Callable[[Any], Any]] = {
        "conv": conv,
        "slice_by_index": sliced,
        "relu": lambda op: get(op, "x").relu(),
        "sigmoid": lambda op: get(op, "x").sigmoid(),
        "softplus": lambda op: F.softplus(get(op, "x")),
        "add": lambda op: get(op, "x") + get(op, "y"),
        "sub": lambda op: get(op, "x") - get(op, "y"),
        "mul": lambda op: get(op, "x") * get(op, "y"),
        "transpose": lambda op: get(op, "x").permute(*[int(axis) for axis in get(op, "perm")]),
        "reshape": lambda op: get(op, "x").reshape(*[int(side) for side in get(op, "shape")]),
        "concat": lambda op: torch.cat([one.float() for one in get(op, "values")], int(get(op, "axis"))),
        "upsample_nearest_neighbor": lambda op: F.interpolate(get(op, "x"), scale_factor=2.0),
        "cast": lambda op: get(op, "x").float(),
    }
    for op in function.operations:
        if op.op_type != "const":
            values[op.outputs[0].name] = operations[op.op_type](op)
    return {variable.name: values[variable.name] for variable in function.outputs}


@pytest.mark.parametrize("fp16", [False, True])
def test_core_ml_program_computes_like_the_network(fp16: bool, tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    result = export("scenes", tmp_path / "a.mlpackage", format="coreml", input_size=SIZE, fp16=fp16)
    levels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, *result.input_hw))).float()
    found = run_mil(result.path, levels)
    with torch.inference_mode():
        boxes, scores = LevelsModule(load_weights("scenes")[0], result.input_hw).eval()(levels)
    # The reference computes in float32, so that only the rounding of the weights differs in float16.
    assert (found["boxes"] - boxes).abs().max() < (2 if fp16 else 1e-3)
    assert (found["scores"] - scores).abs().max() < (0.02 if fp16 else 1e-5)


def test_core_ml_export_says_that_it_was_not_run(tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    path = tmp_path / "a.mlpackage"
    result = export("scenes", path, format="coreml", input_size=SIZE)
    assert result.certificate is None
    assert result.structure is not None
    assert len(result.structure.checks) == 5
    values = json.loads(result.certificate_path.read_text())
    assert values["was_run"] is False
    assert "not run" in values["note"]
    with pytest.raises(ConfigError, match="nothing more can be verified"):
        verify(path)
    changed_byte(path / "Data/com.apple.CoreML/weights/weight.bin", 5000)
    with pytest.raises(WeightsError, match="damaged"):
        verify(path)
    with pytest.raises(FileError, match="not overwritten"):
        export("scenes", path, format="coreml", input_size=SIZE)
    export("scenes", path, format="coreml", input_size=SIZE, overwrite=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.mlpackage", "a.mlpackage.certificate.json"]


def test_pickled_detector_of_an_export_is_loaded_again(exported: ExportResult) -> None:
    import pickle

    detector = Detector.load(exported.path)
    again = pickle.loads(pickle.dumps(detector))
    image = images(1)[0]
    assert np.array_equal(again.detect(image).boxes, detector.detect(image).boxes)
    assert read_certificate(exported.path) is not None
