"""The command `serve`."""

import argparse

from detector.cli.arguments import WEIGHTS, Commands, add_backend, add_max_pixels, path
from detector.cli.numbers import count, port

_SERVER_MAX_PIXELS = 50_000_000


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "serve",
        help="start a web page and an HTTP API",
        description="Serve a web page for uploading images, and an HTTP API: POST /detect (see /openapi.json).",
    )
    parser.add_argument(
        "--weights", nargs="+", required=True, help=f"{WEIGHTS}; with several weights, each request can choose"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 127.0.0.1 is reachable from this machine only, 0.0.0.0 also from the network "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=port, default=8000, help="port to listen on; 0: any free port (default: %(default)s)"
    )
    parser.add_argument(
        "--host-name",
        nargs="+",
        default=[],
        metavar="NAME",
        help="other names under which the server is reached, such as that of a reverse proxy on this machine",
    )
    parser.add_argument(
        "--api-key-file",
        type=path,
        metavar="FILE",
        help="file with a key that each request must contain (default: the environment variable DETECTOR_API_KEY, or "
        "no key)",
    )
    parser.add_argument("--metrics", action="store_true", help="serve numbers for Prometheus at /metrics")
    parser.add_argument(
        "--max-connections",
        type=count,
        default=256,
        metavar="N",
        help="largest number of connections at the same time (default: %(default)s)",
    )
    parser.add_argument(
        "--max-megabytes", type=count, default=20, help="largest upload, in megabytes (default: %(default)s)"
    )
    add_max_pixels(parser, _SERVER_MAX_PIXELS)
    add_backend(parser)


def run(options: argparse.Namespace) -> int:
    """Serve a web page and an HTTP API until the process is stopped."""
    from detector.serving.limits import MAX_PIXELS
    from detector.serving.server import end_process, serve

    serve(
        options.weights,
        device=options.device,
        runtime=options.runtime,
        threads=options.threads,
        host=options.host,
        port=options.port,
        host_names=options.host_name,
        api_key_file=options.api_key_file,
        with_metrics=options.metrics,
        max_connections=options.max_connections,
        max_bytes=options.max_megabytes * 1_000_000,
        max_pixels=options.max_pixels or MAX_PIXELS,
    )
    end_process()
