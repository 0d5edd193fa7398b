"""Print the tables of docs/scale.md: time, cost and storage of detection in 1 million to 10 billion images.

    python tools/scale.py

The inputs are measured figures per core and per image, and prices, all listed in the first table. Change them to the
figures of your machines: `--core-seconds 0.02 --image-kb 400 --price-core-hour 0.03`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

_IMAGES = {"1 million": 10**6, "100 million": 10**8, "10 billion": 10**10}


@dataclass(frozen=True)
class Input:
    """One input of the tables.

    Attributes:
        value: the number.
        what: what it is, with its unit.
        source: where it comes from.
    """

    value: float
    what: str
    source: str


INPUTS = {
    "core-seconds": Input(0.013, "CPU seconds per image, from file to detections", "results.md, `openvino-fast`"),
    "image-kb": Input(60, "kB per image (JPEG, 640x480)", "typical photograph at this size"),
    "objects": Input(6, "detections per image", "assumption"),
    "json-bytes": Input(193, "bytes per detection in `detections.json`", "measured, see below"),
    "gzip-bytes": Input(44, "bytes per detection, the same with gzip", "measured, see below"),
    "latency-ms": Input(50, "ms per GET request of object storage", "assumption"),
    "requests-per-second": Input(5500, "GET requests per second and prefix", "documented limit of Amazon S3"),
    "shard-images": Input(1000, "images per shard (a .tar file)", "choice"),
    "cores-per-host": Input(32, "cores per host", "choice"),
    "price-core-hour": Input(0.04, "USD per core-hour", "assumption: on-demand cloud CPU"),
    "price-million-gets": Input(0.40, "USD per million GET requests", "assumption: list price of object storage"),
    "price-gb-month": Input(0.023, "USD per GB and month", "assumption: list price of object storage"),
}


def tables(values: dict[str, float]) -> str:
    """Return the tables in Markdown.

    Args:
        values: name of an input → value; see `INPUTS`.
    """
    inputs = [(entry.what, _number(values[name]), entry.source) for name, entry in INPUTS.items()]
    per_core = 1 / values["core-seconds"]
    rate = values["image-kb"] * 1e3 * per_core  # bytes per second and core
    limits = [
        ("images per second and core", _number(per_core)),
        ("data read per host, Gbit/s", _number(rate * 8 * values["cores-per-host"] / 1e9)),
        (
            "GET requests at the same time per core that hide the latency",
            _number(per_core * values["latency-ms"] / 1e3),
        ),
        ("cores at which one prefix of object storage is busy", _number(values["requests-per-second"] / per_core)),
    ]
    return "\n\n".join(
        [
            _table(("input", "value", "source"), inputs),
            _table(("per core and host", "value"), limits),
            _table(("", *_IMAGES), _scales(values)),
        ]
    )


def _scales(values: dict[str, float]) -> list[tuple[str, ...]]:
    """Return the rows of the table with one column per number of images."""
    counts = list(_IMAGES.values())
    seconds = values["core-seconds"]

    def row(what: str, numbers: Sequence[float], unit: str = "") -> tuple[str, ...]:
        return (what, *(_number(number) + unit for number in numbers))

    stored = [count * values["image-kb"] / 1e6 for count in counts]  # GB
    return [
        row("core-hours", [count * seconds / 3600 for count in counts]),
        *(
            row(f"hours on {cores:,} cores", [count * seconds / 3600 / cores for count in counts])
            for cores in (2, 64, 1_000, 10_000)
        ),
        row("CPU, USD", [count * seconds / 3600 * values["price-core-hour"] for count in counts]),
        row("images, TB", [gigabytes / 1e3 for gigabytes in stored]),
        row("storage of the images, USD per month", [gigabytes * values["price-gb-month"] for gigabytes in stored]),
        row("GET requests, one per image, USD", [count / 1e6 * values["price-million-gets"] for count in counts]),
        row(
            "GET requests, one per shard, USD",
            [count / values["shard-images"] / 1e6 * values["price-million-gets"] for count in counts],
        ),
        row("results as JSON, GB", [count * values["objects"] * values["json-bytes"] / 1e9 for count in counts]),
        row("results with gzip, GB", [count * values["objects"] * values["gzip-bytes"] / 1e9 for count in counts]),
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows))


def _number(value: float) -> str:
    """Return a number with two significant digits, or all digits before the point.

    >>> _number(0.00361), _number(36111.1), _number(60)
    ('0.0036', '36,000', '60')
    """
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, entry in INPUTS.items():
        parser.add_argument(
            f"--{name}", type=float, default=entry.value, help=f"{entry.what} (default: {entry.value:g})"
        )
    values = vars(parser.parse_args())
    print(tables({name.replace("_", "-"): value for name, value in values.items()}))


if __name__ == "__main__":
    main()
