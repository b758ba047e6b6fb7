"""Tables in Markdown."""

from collections.abc import Sequence

from tabulate import tabulate


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table of equally many cells a row, the head first; the first column left, the others right."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    align = ["left", *["right"] * (len(head) - 1)]
    text: str = tabulate(body, head, "pipe", disable_numparse=True, colalign=align, headersalign=align)
    return text
