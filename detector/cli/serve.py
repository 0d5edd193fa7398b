"""The command `serve`."""

import argparse

from detector.cli.arguments import WEIGHTS, Commands, add_backend, add_max_pixels
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
        "--max-megabytes", type=count, default=20, help="largest upload, in megabytes (default: %(default)s)"
    )
    add_max_pixels(parser, _SERVER_MAX_PIXELS)
    add_backend(parser)


def run(options: argparse.Namespace) -> int:
    """Serve a web page and an HTTP API until the process is stopped."""
    from detector.serving.app import MAX_PIXELS, serve

    serve(
        options.weights,
        device=options.device,
        runtime=options.runtime,
        host=options.host,
        port=options.port,
        max_bytes=options.max_megabytes * 1_000_000,
        max_pixels=options.max_pixels or MAX_PIXELS,
    )
    return 0
