"""A small S3 server for tests and measurements: objects in memory, a delay before each answer, and faults on demand.

It has the requests that the package makes: list, get, head, put (with If-None-Match) and delete. `moto` is closer to
S3, but takes 25 ms of CPU time for each request, and has no faults.

    with S3Server(delay=0.05) as server:
        server.put_folder(Path("datasets/bccd"), "bucket/bccd")
        os.environ |= server.environment
"""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

Fault = Callable[[str, str], str | None]
"""(method, path of the object) → None, or "503", "403", "301", "404", "cut" (half of the body) or "hang"."""


class S3Server:
    """The server, at a port of 127.0.0.1.

    Attributes:
        objects: path "bucket/key" → content.
        delay: seconds before each answer.
        fault: chooses the fault of a request.
        requests: method → number of requests.
        environment: environment variables with which S3 clients use this server.
    """

    def __init__(self, delay: float = 0.0) -> None:
        self.objects: dict[str, bytes] = {}
        self.delay = delay
        self.fault: Fault = lambda method, path: None
        self.requests = Counter[str]()
        self.lock = threading.Lock()
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.store = self
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._http.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def put_folder(self, folder: Path, prefix: str) -> None:
        """Add the files of a folder."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.objects[f"{prefix}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()

    def names(self, prefix: str = "") -> list[str]:
        """Return the sorted paths of the objects that begin with a prefix."""
        return sorted(name for name in list(self.objects) if name.startswith(prefix))


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    store: S3Server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def _begin(self) -> tuple[str, dict[str, list[str]], bytes] | None:
        """Read the request; return path, query and body, or None if a fault was the answer."""
        store, parts = self.server.store, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(parts.path).strip("/")
        time.sleep(store.delay)
        with store.lock:
            store.requests[self.command] += 1
            fault = store.fault(self.command, path)
        codes = {"503": "SlowDown", "403": "AccessDenied", "301": "PermanentRedirect", "404": "NoSuchKey"}
        if fault in codes:
            self._fail(int(fault), codes[fault], "<Region>eu-west-1</Region>" if fault == "301" else "")
        elif fault == "hang":
            time.sleep(60)
        elif fault == "cut":
            data = store.objects[path]
            self._send_head(200, data, data[: len(data) // 2])
            self.close_connection = True
        else:
            return path, parse_qs(parts.query, keep_blank_values=True), body
        return None

    def do_GET(self) -> None:
        """Answer with the content of an object, or the list of a bucket."""
        if (request := self._begin()) is None:
            return
        path, query, _ = request
        if "/" not in path:
            self._list(path, query)
        elif (data := self.server.store.objects.get(path)) is None:
            self._fail(404, "NoSuchKey")
        else:
            start = 0
            if (wanted := self.headers.get("Range")) is not None:
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                start, end = int(first), int(last or len(data) - 1) + 1
                self._send_head(206, data, data[start:end])
            else:
                self._send_head(200, data, data)

    def do_HEAD(self) -> None:
        """Answer with size and ETag of an object."""
        if (request := self._begin()) is None:
            return
        data = self.server.store.objects.get(request[0])
        if data is None:
            self._fail(404, "NoSuchKey")
        else:
            self._send_head(200, data, data)

    def do_PUT(self) -> None:
        """Store an object; with If-None-Match only if there is none."""
        if (request := self._begin()) is None:
            return
        path, _, body = request
        if self.headers.get("Content-Encoding", "").startswith("aws-chunked"):
            body = _unchunk(body)
        with self.server.store.lock:
            exists = self.headers.get("If-None-Match") == "*" and path in self.server.store.objects
            if not exists:
                self.server.store.objects[path] = body
        if exists:
            self._fail(412, "PreconditionFailed", "<Condition>If-None-Match</Condition>")
        else:
            self._send_head(200, body, b"")

    def do_DELETE(self) -> None:
        """Remove an object."""
        if (request := self._begin()) is None:
            return
        self.server.store.objects.pop(request[0], None)
        self._send_head(204, b"", b"")

    def _list(self, bucket: str, query: dict[str, list[str]]) -> None:
        store = self.server.store
        names = store.names(f"{bucket}/")
        if not names:
            self._fail(404, "NoSuchBucket")
            return
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        after = query.get("continuation-token", [""])[0]
        keys = [key for name in names if (key := name[len(bucket) + 1 :]).startswith(prefix) and key > after]
        folders: dict[str, None] = {}
        if delimiter:
            folders = dict.fromkeys(
                prefix + key[len(prefix) :].partition(delimiter)[0] + delimiter
                for key in keys
                if delimiter in key[len(prefix) :]
            )
            keys = [key for key in keys if delimiter not in key[len(prefix) :]]
        page, rest = keys[:1000], keys[1000:]
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f'<ETag>"{_etag(store.objects[f"{bucket}/{key}"])}"</ETag>'
            f"<Size>{len(store.objects[f'{bucket}/{key}'])}</Size></Contents>"
            for key in page
        )
        rows += "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders)
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if rest else ""
        text = (
            f"<ListBucketResult><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount>"
            f"<MaxKeys>1000</MaxKeys><IsTruncated>{'true' if rest else 'false'}</IsTruncated>{token}{rows}"
            "</ListBucketResult>"
        ).encode()
        self._send_head(200, text, text)

    def _send_head(self, status: int, content: bytes, body: bytes) -> None:
        """Send an answer. Content-Length is that of `content` where `body` is cut."""
        self.send_response(status)
        self.send_header("ETag", f'"{_etag(content)}"')
        self.send_header("Last-Modified", formatdate(1767225600, usegmt=True))
        is_whole = self.command in ("GET", "HEAD") and status == 200
        if status != 204:
            self.send_header("Content-Length", str(len(content) if is_whole else len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _fail(self, status: int, code: str, more: str = "") -> None:
        text = (
            b""
            if self.command == "HEAD"
            else f"<Error><Code>{code}</Code><Message>{code}</Message>{more}</Error>".encode()
        )
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def _etag(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _unchunk(body: bytes) -> bytes:
    """Return the content of a body in the encoding aws-chunked."""
    content = b""
    while body:
        head, _, body = body.partition(b"\r\n")
        size = int(head.partition(b";")[0], 16)
        if not size:
            break
        content, body = content + body[:size], body[size + 2 :]
    return content
