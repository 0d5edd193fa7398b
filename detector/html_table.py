"""HTML tables, as which notebooks show results."""

import html
from collections.abc import Sequence


def html_table(header: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str = "") -> str:
    """Return an HTML table. All texts are escaped.

    Args:
        header: texts of the first row; empty: there is none.
        rows: the other rows.
        caption: text above the table; empty: there is none.

    >>> html_table(["class", "AP"], [["a<b", 0.5]])
    '<table><tr><th>class</th><th>AP</th></tr><tr><td>a&lt;b</td><td>0.5</td></tr></table>'
    """
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    lines = [_row("th", header)] if header else []
    return f"<table>{title}{''.join([*lines, *(_row('td', row) for row in rows)])}</table>"


def _row(tag: str, cells: Sequence[object]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(str(cell))}</{tag}>' for cell in cells)}</tr>"
