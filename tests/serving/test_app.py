"""Tests of the server as an ASGI app: its responses, and the messages for requests that it refuses."""

import asyncio
import base64
import io
import json
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image

from detector.arrays import ImageArray

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
pytest.importorskip("python_multipart", reason="the extra `serve` is not installed")

from starlette.types import ASGIApp, Message

from detector.data.scenes import scenes
from detector.detections import Detections
from detector.errors import InputError
from detector.graph.metadata import GraphInfo
from detector.images import read_image
from detector.options import DetectOptions
from detector.predict.detector import Detector
from detector.runtime.base import PointPredictions
from detector.score_decisions import ChosenThresholds, ScoreMap
from detector.serving.app import make_app
from detector.serving.guard import Access, is_loopback
from detector.serving.request import PARAMETERS
from detector.serving.server import serve
from detector.weights_info import WeightsInfo

MAX_BYTES = 400_000
HERE = {"host": "127.0.0.1:8000"}


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def send_request(
    app: ASGIApp,
    method: str,
    url: str,
    body: bytes | AsyncIterator[bytes] = b"",
    headers: dict[str, str] | None = None,
) -> Reply:
    """Send a request to an ASGI app, with the body in chunks as from a socket, and return the response."""
    path, _, query = url.partition("?")
    sent = {key: value for key, value in (HERE | (headers or {})).items() if value}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(key.encode(), value.encode()) for key, value in sent.items()],
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    chunks = body if not isinstance(body, bytes) else _chunks(body)
    messages: list[Message] = []

    async def receive() -> Message:
        try:
            return {"type": "http.request", "body": await anext(chunks), "more_body": True}
        except StopAsyncIteration:
            return {"type": "http.request", "body": b"", "more_body": False}
        except ConnectionError:
            return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        messages.append(message)

    await app(scope, receive, send)
    start, *rest = messages
    received = {key.decode(): value.decode() for key, value in start["headers"]}
    return Reply(start["status"], received, b"".join(part.get("body", b"") for part in rest))


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1 << 16):
        yield body[start : start + (1 << 16)]


def get(app: ASGIApp, url: str, **headers: str) -> Reply:
    return asyncio.run(send_request(app, "GET", url, headers=headers))


def post(
    app: ASGIApp, url: str, body: bytes | AsyncIterator[bytes], content_type: str = "image/png", **headers: str
) -> Reply:
    return asyncio.run(send_request(app, "POST", url, body, {"content-type": content_type} | headers))


def form(*parts: tuple[str, bytes]) -> tuple[bytes, str]:
    """Return a multipart body and its content type.

    Args:
        parts: (attributes, content) of each part; attributes are the text after `form-data;`.
    """
    lines = [
        b"--edge\r\nContent-Disposition: form-data; " + attributes.encode() + b"\r\n\r\n" + content + b"\r\n"
        for attributes, content in parts
    ]
    return b"".join(lines) + b"--edge--\r\n", "multipart/form-data; boundary=edge"


def encode(image: np.ndarray[Any, Any], kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


class Gate:
    """A runtime that waits until `open` is set, and records whether two threads ran it at the same time."""

    name = "gate"
    input_hw = (32, 32)
    graph_info = GraphInfo()

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self._inside = threading.Lock()
        self.was_shared = False

    def predict(self, inputs: Sequence[ImageArray]) -> PointPredictions:
        self.was_shared |= not self._inside.acquire(blocking=False)
        self.entered.release()
        self.open.wait()
        self._inside.release()
        return PointPredictions(np.array([[[0, 0, 9, 9]]], np.float32), np.array([[[0.5]]], np.float32))


def gated() -> tuple[Gate, Detector]:
    gate = Gate()
    return gate, Detector(gate, WeightsInfo("gate", ("thing",), (1,), (32, 32), {}, {}))


@pytest.fixture(scope="module")
def models() -> dict[str, Detector]:
    models = {name: Detector.load(name, device="cpu") for name in ("scenes", "cells")}
    cells = models["cells"]
    thresholds = ChosenThresholds((0.02, 0.3, 0.05), "a goal")
    cells.info = replace(cells.info, thresholds=thresholds, score_map=ScoreMap(3.0, 0.1))
    return models


@pytest.fixture(scope="module")
def app(models: dict[str, Detector]) -> ASGIApp:
    return make_app(models, max_bytes=MAX_BYTES)


@pytest.fixture(scope="module")
def image() -> bytes:
    return encode(scenes.render("test", 3).image)


def rows(found: Detections) -> list[dict[str, Any]]:
    return [
        {"class": name, "class_id": int(class_id), "score": score, "box": box.tolist()}
        for (name, score, box), class_id in zip(found, found.class_ids, strict=True)
    ]


@pytest.mark.parametrize(
    "options",
    [
        DetectOptions(),
        DetectOptions(score_threshold=0.05),
        DetectOptions(score_threshold=0.1, iou_threshold=0.2, max_detections=2),
        DetectOptions(score_threshold=0.01, iou_threshold=1.0, max_detections=1000),
    ],
)
@pytest.mark.parametrize("name", ["scenes", "cells"])
def test_response_equals_the_detections_of_the_detector(
    app: ASGIApp, models: dict[str, Detector], image: bytes, name: str, options: DetectOptions
) -> None:
    thresholds = {key: getattr(options, key) for key in ("score_threshold", "iou_threshold", "max_detections")}
    changed = {key: value for key, value in thresholds.items() if value != getattr(DetectOptions(), key)}
    query = "&".join(f"{key}={value}" for key, value in ({"model": name} | changed).items())
    reply = post(app, f"/detect?{query}", image)
    response = reply.json
    assert reply.status == 200
    assert response.pop("milliseconds") >= 0
    found = models[name].detect(
        image,
        score_threshold=options.score_threshold,
        iou_threshold=options.iou_threshold,
        max_detections=options.max_detections,
    )
    assert len(found) > 0
    assert response == {"model": name, "width": 480, "height": 384, "detections": rows(found)}


OTHER_OPTIONS = [
    DetectOptions(score_threshold=0.05, classes=("RBC", 1)),
    DetectOptions(score_threshold=0.05, classes="0"),
    DetectOptions(score_threshold=0.05, suppression="soft"),
    DetectOptions(score_threshold=0.05, class_agnostic=True),
    DetectOptions(score_threshold=0.05, multi_label=True),
    DetectOptions(score_threshold=0.05, tile=200),
    DetectOptions(score_threshold=0.05, tile=200, tile_overlap=0.4, tta=True, classes=("WBC", "Platelets")),
    DetectOptions(score_threshold="auto", calibrated=True),
]


@pytest.mark.parametrize("options", OTHER_OPTIONS)
def test_every_parameter_works_as_in_python(
    app: ASGIApp, models: dict[str, Detector], image: bytes, options: DetectOptions
) -> None:
    changed = {key: value for key, value in asdict(options).items() if value != getattr(DetectOptions(), key)}
    query = urlencode({key: json.dumps(v) if isinstance(v, bool) else v for key, v in changed.items()}, doseq=True)
    reply = post(app, f"/detect?model=cells&{query}", image)
    found = models["cells"].detect(image, **changed)
    assert reply.json["detections"] == rows(found)
    assert len(found) > 0


def test_first_model_is_the_default(app: ASGIApp, image: bytes) -> None:
    assert post(app, "/detect", image).json["model"] == "scenes"


def test_form_and_plain_body_give_the_same_detections(app: ASGIApp, image: bytes) -> None:
    body, content_type = form(('name="anything"; filename="../../etc/passwd"', image))
    from_form = post(app, "/detect", body, content_type).json
    from_body = post(app, "/detect", image, "application/octet-stream").json
    assert from_form["detections"] == from_body["detections"] != []


def test_rotated_image_is_returned_upright_with_its_upright_size(app: ASGIApp) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(np.tile(np.linspace(0, 255, 90, dtype=np.uint8)[None, :, None], (40, 1, 3)), "JPEG", exif=exif)
    response = post(app, "/detect?with_image=true", content).json
    assert (response["width"], response["height"]) == (40, 90)
    prefix, _, code = response["image"].partition(",")
    assert prefix == "data:image/jpeg;base64"
    returned = read_image(base64.b64decode(code)).astype(int)
    assert np.abs(returned - read_image(content)).max() <= 8
    assert "image" not in post(app, "/detect", content).json


def test_large_image_is_returned_smaller(app: ASGIApp) -> None:
    response = post(app, "/detect?with_image=true", encode(np.zeros((30, 5000, 3), np.uint8))).json
    assert (response["width"], response["height"]) == (5000, 30)
    assert read_image(base64.b64decode(response["image"].partition(",")[2])).shape == (12, 2048, 3)


BAD_QUERIES = {
    "model=dogs": "model: unknown model 'dogs'; known: scenes, cells",
    "model=../../weights.onnx": "model: unknown model '../../weights.onnx'; known: scenes, cells",
    "score_threshold=2": "score_threshold: expected a number from 0 to 1, got '2'",
    "score_threshold=nan": "score_threshold: expected a number from 0 to 1, got 'nan'",
    "iou_threshold=-0.1": "iou_threshold: expected a number from 0 to 1, got '-0.1'",
    "iou_threshold=": "iou_threshold: expected a number from 0 to 1, got ''",
    "iou_threshold=1e999": "iou_threshold: expected a number from 0 to 1, got '1e999'",
    "iou_threshold=0_1": "iou_threshold: expected a number from 0 to 1, got '0_1'",
    "max_detections=0": "max_detections: expected a whole number from 1 to 1000, got '0'",
    "max_detections=1001": "max_detections: expected a whole number from 1 to 1000, got '1001'",
    "max_detections=1.5": "max_detections: expected a whole number from 1 to 1000, got '1.5'",
    "max_detections=%D9%A3": "max_detections: expected a whole number from 1 to 1000, got '٣'",
    "with_image=yes": "with_image: expected true or false, got 'yes'",
    "score_treshold=0.5": "score_treshold: unknown parameter; did you mean 'score_threshold'?",
    "path=/etc/passwd": "path: unknown parameter; known: model, score_threshold, iou_threshold, max_detections, "
    "classes, suppression, class_agnostic, multi_label, tile, tile_overlap, tta, calibrated, with_image",
    "classes=dog": "classes: no class 'dog'; known: star, heart, arrow, key, gear, mug, house, fish, leaf, umbrella, "
    "car, tree",
    "suppression=hard": "suppression: expected classic or soft or diou or weighted, got 'hard'",
    "class_agnostic=1": "class_agnostic: expected true or false, got '1'",
    "multi_label=": "multi_label: expected true or false, got ''",
    "tile=0": "tile: expected a whole number from 1 to 100000, got '0'",
    "tile=-5": "tile: expected a whole number from 1 to 100000, got '-5'",
    "tile_overlap=1": "tile_overlap: expected a number from 0 to below 1, got '1'",
    "tta=2": "tta: expected true or false, got '2'",
    "tile=8": "tile: an image of 480 x 384 pixels would need 7680 tiles of 8 x 6, more than 256: use larger tiles or a "
    "smaller overlap",
    "tile=2": "tile: an image of 480 x 384 pixels would need 183457 tiles of 2 x 2, more than 256: use larger tiles or "
    "a smaller overlap",
    "model=cells&model=scenes": "model: the parameter is sent twice; send it once",
}


@pytest.mark.parametrize("query", BAD_QUERIES)
def test_bad_parameter_is_refused_with_the_expected_value(app: ASGIApp, image: bytes, query: str) -> None:
    reply = post(app, f"/detect?{query}", image)
    assert (reply.status, reply.json) == (422, {"error": BAD_QUERIES[query]})


def _upload(content: bytes) -> tuple[str, bytes]:
    return 'name="file"; filename="a.png"', content


BAD_BODIES: dict[str, tuple[bytes, str, int, str]] = {
    "text": (b"hello", "image/png", 415, "image: not an image in a supported format"),
    "nothing": (b"", "image/png", 415, "image: the file is empty"),
    "a truncated image": (encode(np.zeros((50, 50, 3), np.uint8))[:-40], "image/png", 415, "cannot be decoded"),
    "32-bit integers": (encode(np.zeros((9, 9), np.int32), "TIFF"), "image/tiff", 415, "the value range of images"),
    "another type": (b"{}", "application/json", 415, "Content-Type application/json is not an image: send the file as"),
    "no type": (b"x", "", 415, "the request has no Content-Type: send the file as the request body"),
    "too large a file": (bytes(MAX_BYTES + 1), "image/png", 413, "the file is larger than 0.4 MB; shrink the image"),
    "a huge file": (bytes(9 * MAX_BYTES), "image/png", 413, "the file is larger than 0.4 MB; shrink the image"),
    "too many pixels": (encode(np.zeros((9500, 9500), np.bool_)), "image/png", 413, "the image has 9500 x 9500 pixels"),
    "a form without boundary": (b"--edge\r\n", "multipart/form-data", 400, "(Missing boundary in multipart.)"),
    "a body that is no form": (b"hello", "multipart/form-data; boundary=edge", 400, "the form cannot be parsed ("),
    "an empty form": (*form(), 422, "the form contains no file"),
    "an empty file in a form": (*form(_upload(b"")), 415, "the file is empty"),
    "two files": (*form(_upload(b"a"), _upload(b"b")), 400, "Too many files. Maximum number of files is 1."),
    "a field": (
        *form(('name="score_threshold"', b"0.5"), _upload(b"a")),
        422,
        "score_threshold: the form must contain only the file",
    ),
    "a field after the file": (
        *form(_upload(b"a"), ('name="b"', b"c")),
        422,
        "b: the form must contain only the file",
    ),
    "many fields": (*form(('name="a"', b"b"), ('name="c"', b"d")), 400, "Too many fields."),
}


@pytest.mark.filterwarnings("ignore:Image size")  # Pillow logs a warning before our error
@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_upload_is_refused_with_a_message(app: ASGIApp, name: str) -> None:
    body, content_type, status, message = BAD_BODIES[name]
    reply = post(app, "/detect", body, content_type)
    assert (reply.status, reply.headers["content-type"]) == (status, "application/json")
    assert list(reply.json) == ["error"]
    assert message in reply.json["error"]
    assert "<bytes>" not in reply.json["error"]


def test_pixel_limit_of_the_server_applies_to_uploads(models: dict[str, Detector]) -> None:
    app = make_app(models, max_pixels=80)
    reply = post(app, "/detect", encode(np.zeros((9, 9, 3), np.uint8)))
    assert reply.status == 413
    assert reply.json["error"].startswith("image: the image has 9 x 9 pixels, more than 80: ")
    assert post(app, "/detect", encode(np.zeros((8, 10, 3), np.uint8))).status == 200


def test_endless_upload_is_cut_off(models: dict[str, Detector]) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(100_000)

    assert post(make_app(models, max_bytes=MAX_BYTES), "/detect", endless()).status == 413


def test_stalled_upload_times_out(models: dict[str, Detector]) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    reply = post(make_app(models, seconds=0.05), "/detect", stalled())
    assert (reply.status, reply.json) == (
        408,
        {"error": "the upload takes longer than 0.05 seconds, or sends nothing for 5 seconds"},
    )


def test_client_that_disconnects_harms_nobody(app: ASGIApp, image: bytes) -> None:
    async def gone() -> AsyncIterator[bytes]:
        yield image[:10]
        raise ConnectionError

    assert post(app, "/detect", gone()).status == 400
    assert post(app, "/detect", image).status == 200


def test_overloaded_server_refuses_and_runs_one_image_per_model() -> None:
    gate, model = gated()
    app = make_app({"gate": model}, concurrency=3)
    content = encode(np.zeros((9, 9, 3), np.uint8))

    async def send_many() -> tuple[list[Reply], Reply]:
        first = [
            asyncio.create_task(send_request(app, "POST", "/detect", content, {"content-type": "image/png"}))
            for _ in range(3)
        ]
        await asyncio.to_thread(gate.entered.acquire)
        chunks = _chunks(content + bytes(1 << 17))
        refused = await send_request(app, "POST", "/detect", chunks, {"content-type": "image/png"})
        assert await anext(chunks, None) is None  # the server has read the complete upload of the refused client
        health = await send_request(app, "GET", "/health")
        assert health.status == 200  # the event loop is free while a model runs
        gate.open.set()
        return await asyncio.gather(*first), refused

    accepted, refused = asyncio.run(send_many())
    assert [reply.status for reply in accepted] == [200] * 3
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert refused.json == {"error": "3 images are already being processed; try again in a second"}
    assert not gate.was_shared
    assert post(app, "/detect", content).status == 200


def test_slow_detection_times_out_and_the_next_succeeds() -> None:
    gate, model = gated()
    app = make_app({"gate": model}, seconds=0.05)
    content = encode(np.zeros((9, 9, 3), np.uint8))
    reply = post(app, "/detect", content)
    gate.open.set()  # before the assertion: otherwise a failed test would wait for the thread of the model forever
    assert (reply.status, reply.json) == (
        503,
        {"error": "the detection took longer than 0.05 seconds; try again in a second"},
    )
    assert post(make_app({"gate": model}), "/detect", content).status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("LOCALHOST:9000", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),
        ("localhost.evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("192.168.1.7:8000", 403),
        ("", 403),
    ],
)
def test_local_server_accepts_only_loopback_host_names(
    app: ASGIApp, models: dict[str, Detector], host: str, status: int
) -> None:
    for url in ("/", "/models", "/health", "/openapi.json"):
        assert get(app, url, host=host).status == status
    assert get(make_app(models, access=Access(local_only=False)), "/health", host=host).status == 200


def test_name_of_a_reverse_proxy_can_be_allowed(models: dict[str, Detector]) -> None:
    app = make_app(models, access=Access(host_names=frozenset({"detect.example.org"})))
    for host, status in (("detect.example.org", 200), ("Detect.Example.org:443", 200), ("evil.example", 403)):
        assert get(app, "/health", host=host).status == status
    assert get(app, "/health", host="detect.example.org", origin="https://detect.example.org").status == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8000", 200),
        ("http://evil.example", 403),
        ("http://127.0.0.1:9999", 403),
        ("http://localhost:8000", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
def test_page_of_another_origin_cannot_use_the_server(
    app: ASGIApp, models: dict[str, Detector], image: bytes, origin: str, status: int
) -> None:
    for server in (app, make_app(models, access=Access(local_only=False))):
        reply = post(server, "/detect", image, origin=origin)
        assert reply.status == status
        assert not [name for name in reply.headers if name.startswith("access-control")]


def test_loopback_names_are_recognized() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.3.2.1", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "", "2130706433")))


def test_page_is_self_contained_and_may_load_nothing_else(app: ASGIApp) -> None:
    reply = get(app, "/")
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy
    page = reply.body.decode()
    addresses = [word for word in page.split('"') if word.startswith(("http:", "https:", "//"))]
    assert addresses == []


def test_unknown_paths_and_methods_give_json_errors(app: ASGIApp) -> None:
    for method, url, status in (("GET", "/weights", 404), ("GET", "/detect", 405), ("POST", "/health", 405)):
        reply = asyncio.run(send_request(app, method, url))
        assert reply.status == status
        assert reply.json["error"]
    assert get(app, "/../../etc/passwd").status == 404


def test_health_and_models_describe_the_server(app: ASGIApp, models: dict[str, Detector]) -> None:
    assert get(app, "/health").json["status"] == "ok"
    known = get(app, "/models").json
    assert [model["name"] for model in known["models"]] == ["scenes", "cells"]
    assert known["models"][1]["class_names"] == list(models["cells"].class_names)
    assert known["max_bytes"] == MAX_BYTES


def test_openapi_document_describes_the_responses(app: ASGIApp, image: bytes) -> None:
    api = get(app, "/openapi.json").json
    schemas = api["components"]["schemas"]
    for url, name in (("/health", "HealthResponse"), ("/models", "ModelsResponse")):
        assert_fits(get(app, url).json, schemas[name], schemas)
    url = "/detect?with_image=true&score_threshold=0.01"
    assert_fits(post(app, url, image).json, schemas["DetectResponse"], schemas)
    assert_fits(post(app, "/detect", b"").json, schemas["ErrorResponse"], schemas)
    parameters = {parameter["name"]: parameter["schema"] for parameter in api["paths"]["/detect"]["post"]["parameters"]}
    assert parameters["model"]["enum"] == ["scenes", "cells"]
    plain = post(app, "/detect", image).json["detections"]
    assert list(parameters) == list(PARAMETERS)
    defaults = {name: schema for name, schema in parameters.items() if "default" in schema}
    for name, schema in defaults.items():  # a parameter with its default value changes nothing
        value = json.dumps(schema["default"]).strip('"')
        assert post(app, f"/detect?{name}={value}", image).json["detections"] == plain


def fits(value: Any, schema: dict[str, Any], schemas: dict[str, Any]) -> bool:
    """Return whether a value fits a JSON schema."""
    try:
        assert_fits(value, schema, schemas)
    except AssertionError:
        return False
    return True


def assert_fits(value: Any, schema: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Assert that a value fits a JSON schema; supports only the keywords that the OpenAPI document uses."""
    if "$ref" in schema:
        assert_fits(value, schemas[schema["$ref"].rpartition("/")[2]], schemas)
    elif "anyOf" in schema:
        assert any(fits(value, option, schemas) for option in schema["anyOf"]), value
    elif "const" in schema:
        assert value == schema["const"]
    elif schema["type"] == "null":
        assert value is None
    elif schema["type"] == "object":
        assert isinstance(value, dict)
        assert set(schema["required"]) <= set(value) <= set(schema["properties"])
        for key, part in value.items():
            assert_fits(part, schema["properties"][key], schemas)
    elif schema["type"] == "array":
        assert isinstance(value, list)
        assert schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        for item in value:
            assert_fits(item, schema["items"], schemas)
    else:
        kinds: dict[str, type | tuple[type, ...]] = {
            "string": str, "number": (int, float), "integer": int, "boolean": bool
        }  # fmt: skip
        assert isinstance(value, kinds[schema["type"]])
        assert value in schema.get("enum", [value])
        if schema["type"] in ("number", "integer"):
            assert schema.get("minimum", value) <= value <= schema.get("maximum", value)


def test_server_needs_models_with_different_names() -> None:
    with pytest.raises(InputError, match="at least one model"):
        make_app({})
    with pytest.raises(InputError, match="--weights cells cells: the same weights are passed twice"):
        serve(["cells", "cells"], port=0)


def test_key_that_cannot_be_used_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    with pytest.raises(InputError, match=r"key: the API key cannot be read \(No such file or directory\)"):
        serve(["no such weights"], port=0, api_key_file=file)
    for content in (b"", b"short\n", b"two words in a key\n", "ключключключключ".encode(), b"0123456789abcdef\nx"):
        file.write_bytes(content)
        with pytest.raises(InputError, match="key: expected an API key of at least 16 letters, digits and signs"):
            serve(["no such weights"], port=0, api_key_file=file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"key: the API key cannot be read \(not text\)"):
        serve(["no such weights"], port=0, api_key_file=file)
    file.write_bytes(b"0123456789abcdef\n")
    with pytest.raises(InputError, match="no such weights"):
        serve(["no such weights"], port=0, api_key_file=file)
    monkeypatch.setenv("DETECTOR_API_KEY", "short")
    with pytest.raises(InputError, match="environment variable DETECTOR_API_KEY: expected an API key of at least 16"):
        serve(["no such weights"], port=0)


def test_api_description_names_the_key_only_if_needed(app: ASGIApp, models: dict[str, Detector]) -> None:
    assert "security" not in get(app, "/openapi.json").json
    secured = make_app(models, access=Access(api_key="0123456789abcdef"))
    api = get(secured, "/openapi.json", authorization="Bearer 0123456789abcdef").json
    assert {name for scheme in api["security"] for name in scheme} == set(api["components"]["securitySchemes"])
    assert api["paths"]["/health"]["get"]["security"] == []


def test_metrics_are_off_by_default(app: ASGIApp) -> None:
    assert get(app, "/metrics").status == 404


def test_port_in_use_is_reported_before_models_are_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            InputError, match=rf"127.0.0.1, port {port}: cannot listen \(Address already in use\); pass another"
        ):
            serve(["no such weights"], port=port)
    with pytest.raises(InputError, match="port 70000: expected a number from 0 to 65535"):
        serve(["no such weights"], port=70000)
