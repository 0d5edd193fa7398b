"""Progress bars on standard error."""

import logging
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from detector.escaping import cell

if TYPE_CHECKING:
    from tqdm import tqdm

_DESCRIPTION_COLUMNS = 30


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    initial: int = 0,
    unit: str,
    description: str = "",
) -> "tqdm[Any]":
    """Return a progress bar, which is shown only if standard error is a terminal.

    There is no bar if the level of the logger `detector` is set to ERROR.

    Args:
        items: iterable whose items the bar counts; None: the caller calls `update`.
        total: number of items at the end; None: the length of `items`, or unknown.
        initial: number of items that are done at the start.
        unit: name of an item.
        description: text before the bar; may contain names from files.
    """
    from tqdm import tqdm

    quiet = sys.stderr is None or logging.getLogger("detector").level > logging.WARNING
    return tqdm(
        items,
        total=total,
        initial=initial,
        unit=unit,
        desc=cell(description, _DESCRIPTION_COLUMNS).rstrip() or None,
        # The command line escapes what is printed to standard error. A bar needs the unescaped stream.
        file=getattr(sys.stderr, "unescaped", sys.stderr),
        disable=True if quiet else None,
        dynamic_ncols=True,
    )
