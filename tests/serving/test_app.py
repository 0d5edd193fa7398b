"""The server as an ASGI app: what it answers, what it refuses and with which words."""

import asyncio
import base64
import io
import json
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

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
from detector.predict.detector import Detector
from detector.runtime.base import PointPredictions
from detector.serving.app import make_app, serve
from detector.serving.guard import is_loopback
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


async def ask(
    app: ASGIApp,
    method: str,
    url: str,
    body: bytes | AsyncIterator[bytes] = b"",
    headers: dict[str, str] | None = None,
) -> Reply:
    """Ask an ASGI app, with the body in pieces as a socket would bring it."""
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
    pieces = body if not isinstance(body, bytes) else _pieces(body)
    answers: list[Message] = []

    async def receive() -> Message:
        try:
            return {"type": "http.request", "body": await anext(pieces), "more_body": True}
        except StopAsyncIteration:
            return {"type": "http.request", "body": b"", "more_body": False}
        except ConnectionError:
            return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        answers.append(message)

    await app(scope, receive, send)
    start, *rest = answers
    received = {key.decode(): value.decode() for key, value in start["headers"]}
    return Reply(start["status"], received, b"".join(part.get("body", b"") for part in rest))


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1 << 16):
        yield body[start : start + (1 << 16)]


def get(app: ASGIApp, url: str, **headers: str) -> Reply:
    return asyncio.run(ask(app, "GET", url, headers=headers))


def post(app: ASGIApp, url: str, body: bytes | AsyncIterator[bytes], kind: str = "image/png", **headers: str) -> Reply:
    return asyncio.run(ask(app, "POST", url, body, {"content-type": kind} | headers))


def form(*parts: tuple[str, bytes]) -> tuple[bytes, str]:
    """Return a multipart body and its type: for each part what stands behind `form-data;`, and its content."""
    lines = [
        b"--edge\r\nContent-Disposition: form-data; " + about.encode() + b"\r\n\r\n" + content + b"\r\n"
        for about, content in parts
    ]
    return b"".join(lines) + b"--edge--\r\n", "multipart/form-data; boundary=edge"


def encode(image: np.ndarray[Any, Any], kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


class Gate:
    """A runtime that answers when it is let, and knows how many it is asked at a time."""

    name = "gate"
    input_hw = (32, 32)
    form = GraphInfo()

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self._inside = threading.Lock()
        self.was_crowded = False

    def predict(self, inputs: Sequence[ImageArray]) -> PointPredictions:
        self.was_crowded |= not self._inside.acquire(blocking=False)
        self.entered.release()
        self.open.wait()
        self._inside.release()
        return PointPredictions(np.array([[[0, 0, 9, 9]]], np.float32), np.array([[[0.5]]], np.float32))


def gated() -> tuple[Gate, Detector]:
    gate = Gate()
    return gate, Detector(gate, WeightsInfo("gate", ("thing",), (1,), (32, 32), {}, {}))


@pytest.fixture(scope="module")
def models() -> dict[str, Detector]:
    return {name: Detector.load(name, "cpu") for name in ("scenes", "cells")}


@pytest.fixture(scope="module")
def app(models: dict[str, Detector]) -> ASGIApp:
    return make_app(models, MAX_BYTES)


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
        {},
        {"score_threshold": 0.05},
        {"score_threshold": 0.1, "iou_threshold": 0.2, "max_detections": 2},
        {"score_threshold": 0.01, "iou_threshold": 1.0, "max_detections": 1000},
    ],
)
@pytest.mark.parametrize("name", ["scenes", "cells"])
def test_the_answer_is_that_of_the_detector_to_the_last_digit(
    app: ASGIApp, models: dict[str, Detector], image: bytes, name: str, options: dict[str, float]
) -> None:
    query = "&".join(f"{key}={value}" for key, value in ({"model": name} | options).items())
    reply = post(app, f"/detect?{query}", image)
    answer = reply.json
    assert reply.status == 200
    assert answer.pop("milliseconds") >= 0
    found = models[name].detect(image, **options)
    assert len(found) > 0
    assert answer == {"model": name, "width": 480, "height": 384, "detections": rows(found)}


def test_the_first_model_is_meant_where_none_is_named(app: ASGIApp, image: bytes) -> None:
    assert post(app, "/detect", image).json["model"] == "scenes"


def test_a_form_and_a_bare_body_are_answered_alike(app: ASGIApp, image: bytes) -> None:
    body, kind = form(('name="anything"; filename="../../etc/passwd"', image))
    answers = [post(app, "/detect", body, kind).json, post(app, "/detect", image, "application/octet-stream").json]
    assert answers[0]["detections"] == answers[1]["detections"] != []


def test_a_turned_image_is_measured_and_handed_back_the_way_up_a_viewer_shows_it(app: ASGIApp) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(np.tile(np.linspace(0, 255, 90, dtype=np.uint8)[None, :, None], (40, 1, 3)), "JPEG", exif=exif)
    answer = post(app, "/detect?with_image=true", content).json
    assert (answer["width"], answer["height"]) == (40, 90)
    head, _, code = answer["image"].partition(",")
    assert head == "data:image/jpeg;base64"
    shown = read_image(base64.b64decode(code)).astype(int)
    assert np.abs(shown - read_image(content)).max() <= 8
    assert "image" not in post(app, "/detect", content).json


def test_a_large_image_is_handed_back_smaller(app: ASGIApp) -> None:
    answer = post(app, "/detect?with_image=true", encode(np.zeros((30, 5000, 3), np.uint8))).json
    assert (answer["width"], answer["height"]) == (5000, 30)
    assert read_image(base64.b64decode(answer["image"].partition(",")[2])).shape == (12, 2048, 3)


BAD_QUERIES = {
    "model=dogs": "model: there is no 'dogs'; known: scenes, cells",
    "model=../../weights.onnx": "model: there is no '../../weights.onnx'; known: scenes, cells",
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
    "score_treshold=0.5": "score_treshold: no such parameter; did you mean 'score_threshold'?",
    "path=/etc/passwd": "path: no such parameter; known: model, score_threshold, iou_threshold, max_detections, "
    "with_image",
    "model=cells&model=scenes": "model: given twice",
}


@pytest.mark.parametrize("query", BAD_QUERIES)
def test_a_bad_parameter_is_named_with_what_was_expected(app: ASGIApp, image: bytes, query: str) -> None:
    reply = post(app, f"/detect?{query}", image)
    assert (reply.status, reply.json) == (422, {"error": BAD_QUERIES[query]})


def _upload(content: bytes) -> tuple[str, bytes]:
    return 'name="file"; filename="a.png"', content


BAD_BODIES: dict[str, tuple[bytes, str, int, str]] = {
    "words": (b"hello", "image/png", 415, "not an image in a format that can be read"),
    "nothing": (b"", "image/png", 415, "is empty"),
    "a cut image": (encode(np.zeros((50, 50, 3), np.uint8))[:-40], "image/png", 415, "the image does not decode"),
    "32-bit integers": (encode(np.zeros((9, 9), np.int32), "TIFF"), "image/tiff", 415, "has no known range"),
    "another type": (b"{}", "application/json", 415, "got application/json: send the file as body with `Content-Type"),
    "no type": (b"x", "", 415, "got a body without Content-Type: send the file as body"),
    "too large a file": (bytes(MAX_BYTES + 1), "image/png", 413, "too large a file: at most 0.4 MB are taken"),
    "far too large a file": (bytes(9 * MAX_BYTES), "image/png", 413, "too large a file: at most 0.4 MB are taken"),
    "too many pixels": (encode(np.zeros((9500, 9500), np.bool_)), "image/png", 413, "too large an image (9500 x 9500"),
    "a form without its edge": (b"--edge\r\n", "multipart/form-data", 400, "(Missing boundary in multipart.)"),
    "a form that is none": (b"hello", "multipart/form-data; boundary=edge", 400, "the form cannot be read ("),
    "an empty form": (*form(), 422, "the form holds no file"),
    "an empty file in a form": (*form(_upload(b"")), 415, "is empty"),
    "two files": (*form(_upload(b"a"), _upload(b"b")), 400, "Too many files. Maximum number of files is 1."),
    "a field": (
        *form(('name="score_threshold"', b"0.5"), _upload(b"a")),
        422,
        "score_threshold: a form holds the file alone",
    ),
    "a field behind the file": (*form(_upload(b"a"), ('name="b"', b"c")), 422, "b: a form holds the file alone"),
    "many fields": (*form(('name="a"', b"b"), ('name="c"', b"d")), 400, "Too many fields."),
}


@pytest.mark.filterwarnings("ignore:Image size")  # Pillow's own remark on the way to our refusal
@pytest.mark.parametrize("what", BAD_BODIES)
def test_a_bad_upload_is_refused_with_a_message(app: ASGIApp, what: str) -> None:
    body, kind, status, says = BAD_BODIES[what]
    reply = post(app, "/detect", body, kind)
    assert (reply.status, reply.headers["content-type"]) == (status, "application/json")
    assert list(reply.json) == ["error"]
    assert says in reply.json["error"]
    assert "<bytes>" not in reply.json["error"]


def test_an_upload_that_never_ends_is_cut_off(models: dict[str, Detector]) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(100_000)

    assert post(make_app(models, MAX_BYTES), "/detect", endless()).status == 413


def test_an_upload_that_stalls_is_given_up(models: dict[str, Detector]) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    reply = post(make_app(models, seconds=0.05), "/detect", stalled())
    assert (reply.status, reply.json) == (408, {"error": "the image did not arrive within 0.05 seconds"})


def test_a_sender_that_goes_away_harms_nobody(app: ASGIApp, image: bytes) -> None:
    async def gone() -> AsyncIterator[bytes]:
        yield image[:10]
        raise ConnectionError

    assert post(app, "/detect", gone()).status == 400
    assert post(app, "/detect", image).status == 200


def test_who_comes_when_too_many_wait_is_told_to_try_again_and_a_model_computes_one_image_at_a_time() -> None:
    gate, model = gated()
    app = make_app({"gate": model}, concurrency=3)
    content = encode(np.zeros((9, 9, 3), np.uint8))

    async def crowd() -> tuple[list[Reply], Reply]:
        first = [
            asyncio.create_task(ask(app, "POST", "/detect", content, {"content-type": "image/png"})) for _ in range(3)
        ]
        await asyncio.to_thread(gate.entered.acquire)
        pieces = _pieces(bytes(1 << 17))
        refused = await ask(app, "POST", "/detect", pieces, {"content-type": "image/png"})
        assert await anext(pieces, None) is None  # who is refused has been let finish
        health = await ask(app, "GET", "/health")
        assert health.status == 200  # the loop is free while a model computes
        gate.open.set()
        return await asyncio.gather(*first), refused

    answered, refused = asyncio.run(crowd())
    assert [reply.status for reply in answered] == [200] * 3
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert refused.json == {"error": "3 images are being looked at already: try again in a second"}
    assert not gate.was_crowded
    assert post(app, "/detect", content).status == 200


def test_an_answer_that_takes_too_long_is_given_up_and_the_next_is_not() -> None:
    gate, model = gated()
    app = make_app({"gate": model}, seconds=0.05)
    content = encode(np.zeros((9, 9, 3), np.uint8))
    reply = post(app, "/detect", content)
    assert (reply.status, reply.json) == (
        503,
        {"error": "there was no answer within 0.05 seconds: try again in a second"},
    )
    gate.open.set()
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
def test_a_local_server_answers_under_this_machines_own_names_only(
    app: ASGIApp, models: dict[str, Detector], host: str, status: int
) -> None:
    for url in ("/", "/models", "/health", "/openapi.json"):
        assert get(app, url, host=host).status == status
    assert get(make_app(models, local_only=False), "/health", host=host).status == 200


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
def test_a_page_of_another_origin_cannot_use_the_server(
    app: ASGIApp, models: dict[str, Detector], image: bytes, origin: str, status: int
) -> None:
    for one in (app, make_app(models, local_only=False)):
        reply = post(one, "/detect", image, origin=origin)
        assert reply.status == status
        assert not [name for name in reply.headers if name.startswith("access-control")]


def test_names_of_this_machine_are_told_from_others() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.3.2.1", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "", "2130706433")))


def test_the_page_holds_all_it_needs_and_may_load_nothing_else(app: ASGIApp) -> None:
    reply = get(app, "/")
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy
    page = reply.body.decode()
    addresses = [word for word in page.split('"') if word.startswith(("http:", "https:", "//"))]
    assert addresses == []


def test_what_is_not_there_is_said_in_json_too(app: ASGIApp) -> None:
    for method, url, status in (("GET", "/weights", 404), ("GET", "/detect", 405), ("POST", "/health", 405)):
        reply = asyncio.run(ask(app, method, url))
        assert reply.status == status
        assert reply.json["error"]
    assert get(app, "/../../etc/passwd").status == 404


def test_health_and_models_say_what_can_be_asked(app: ASGIApp, models: dict[str, Detector]) -> None:
    assert get(app, "/health").json["status"] == "ok"
    known = get(app, "/models").json
    assert [model["name"] for model in known["models"]] == ["scenes", "cells"]
    assert known["models"][1]["class_names"] == list(models["cells"].class_names)
    assert known["max_bytes"] == MAX_BYTES


def test_the_openapi_document_describes_what_is_answered(app: ASGIApp, image: bytes) -> None:
    api = get(app, "/openapi.json").json
    schemas = api["components"]["schemas"]
    for url, name in (("/health", "Health"), ("/models", "Models")):
        assert_fits(get(app, url).json, schemas[name], schemas)
    asked = "/detect?with_image=true&score_threshold=0.01"
    assert_fits(post(app, asked, image).json, schemas["Answer"], schemas)
    assert_fits(post(app, "/detect", b"").json, schemas["Error"], schemas)
    parameters = {parameter["name"]: parameter["schema"] for parameter in api["paths"]["/detect"]["post"]["parameters"]}
    assert parameters["model"]["enum"] == ["scenes", "cells"]
    plain = post(app, "/detect", image).json["detections"]
    for name, schema in parameters.items():  # what is called default is answered as if it were not there
        value = json.dumps(schema["default"]).strip('"')
        assert post(app, f"/detect?{name}={value}", image).json["detections"] == plain


def assert_fits(value: Any, schema: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Hold a value to the few words of JSON Schema that the document uses."""
    if "$ref" in schema:
        assert_fits(value, schemas[schema["$ref"].rpartition("/")[2]], schemas)
    elif "const" in schema:
        assert value == schema["const"]
    elif schema["type"] == "object":
        assert set(schema["required"]) <= set(value) <= set(schema["properties"])
        for key, part in value.items():
            assert_fits(part, schema["properties"][key], schemas)
    elif schema["type"] == "array":
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


def test_a_server_without_models_or_with_the_same_twice_is_refused() -> None:
    with pytest.raises(InputError, match="at least one model"):
        make_app({})
    with pytest.raises(InputError, match="given twice: cells cells"):
        serve(["cells", "cells"], port=0)


def test_an_address_that_cannot_be_listened_on_is_said_before_models_are_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            InputError, match=rf"127.0.0.1, port {port}: cannot listen \(Address already in use\): choose"
        ):
            serve(["no such weights"], port=port)
    with pytest.raises(InputError, match="port 70000: ports go from 0 to 65535"):
        serve(["no such weights"], port=70000)
