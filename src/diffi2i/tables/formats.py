"""A table as Markdown, CSV, LaTeX and JSON. All four are of the same cells."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from diffi2i.run.files import finite
from diffi2i.tables.markdown import markdown
from diffi2i.tables.ordering import NOT_MEASURED, Ordering, Pair, summary
from diffi2i.tables.remarks import compute_text
from diffi2i.tables.table import Cell, Head, Line, Table, title

READING = {
    "paper": "The paper's values: its data, its training, its hardware.",
    "here": "Measured here: mean over seeds ± their standard deviation (number of images, of seeds).",
}
GAIN = (
    "Prior dependence: how much better the main score is with an image's own prior than with another image's. Prior "
    "worth: how much better it is than that of the same network trained as long without a prior."
)
MARKS = "Bold: the best of a column; underlined: the second."


def group_heading(table: Table, group: str) -> str:
    """What stands over the columns of one origin."""
    return "the paper's values" if group == "paper" else f"measured here, scale={table.scale}"


def scope(table: Table) -> list[str]:
    """How to read the two groups of columns."""
    apart = [] if table.scale == "paper" else [f"scale={table.scale} is not the paper's: the two do not compare."]
    if not any(head.group == "paper" for head in table.heads):
        return [READING["here"], GAIN, MARKS]
    return [READING["paper"], READING["here"], *apart, GAIN, MARKS]


def number(cell: Cell) -> str:
    """The mean, or the word in its place."""
    return cell.word if cell.value is None else f"{cell.value:.{cell.digits}f}"


def rest(cell: Cell) -> str:
    """What follows the mean: ` ± 0.12 (3 images, 2 seeds) †`."""
    if cell.value is None or not cell.seeds:
        return ""
    spread = "" if cell.sd is None else f" ± {cell.sd:.{cell.digits}f}"
    if cell.interval is not None:
        spread += f" [{cell.interval[0]:+.{cell.digits}f}, {cell.interval[1]:+.{cell.digits}f}]"
    images = [] if cell.images is None else [counted(cell.images, "image")]
    return f"{spread} ({', '.join([*images, counted(cell.seeds, 'seed')])}){' †' * cell.few}"


def counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def ordering_rows(found: Ordering) -> list[list[str]]:
    """The pairs of an ordering as a table, head first; nothing where none was measured."""
    if all(pair.verdict == NOT_MEASURED for pair in found.pairs):
        return []
    head = [
        "better in the paper, or expected so",
        "worse",
        f"better − worse here, {found.heading}",
        "95 % interval",
        "sign test, p",
        "steps of the networks",
        "the order here",
    ]
    return [head, *(pair_row(pair, found.digits + 1) for pair in found.pairs)]


def pair_row(pair: Pair, digits: int) -> list[str]:
    difference = "n/a" if pair.difference is None else f"{pair.difference:+.{digits}f}"
    difference += "" if pair.sd is None else f" ± {pair.sd:.{digits}f}"
    interval = "n/a"
    if pair.interval is not None:
        counts = f"{counted(pair.images, 'image')}, {counted(pair.seeds, 'seed')}"
        interval = f"[{pair.interval[0]:.{digits}f}, {pair.interval[1]:.{digits}f}] ({counts})"
    p = "" if pair.p is None else f"{pair.p:.2g}"
    steps = "" if pair.steps is None else str(pair.steps[0])
    if pair.steps is not None and pair.steps[0] != pair.steps[1]:
        steps = f"unequal: {pair.steps[0]} and {pair.steps[1]}"
    return [pair.better, pair.worse, difference, interval, p, steps, pair.verdict]


def ordering_text(found: Ordering) -> str:
    """The ordering, by which score and why by this one, and what came out."""
    claim = f"From best to worst the paper has {' > '.join(found.rows)}. " if found.rows else ""
    return f"{claim}Pairs here, by {found.heading} ({found.why}): {summary(found)}."


INTERVALS = (
    "Intervals: bootstrap over the images of the difference image by image, each image averaged over the seeds; p: the "
    "sign test's over the same images; ±: deviation of the difference over the seeds. There is a verdict only where "
    "interval and test see a difference on ten images or more, and the seeds do not differ by as much. It says nothing "
    "about other data or budgets."
)
NO_CLAIM = "No two rows that the paper puts in order are run here: nothing to check."


def provenance_text(provenance: Mapping[str, Sequence[str]], compute: Mapping[str, float]) -> list[tuple[str, str]]:
    """Where the measured numbers come from, as (what, value)."""
    texts = [(what, (" to " if what == "date" else "; ").join(values)) for what, values in provenance.items()]
    return [*((what, text or "nothing measured yet") for what, text in texts), ("compute", compute_text(compute))]


def to_markdown(table: Table, pictures: Sequence[str] = ()) -> str:
    """The whole page. `pictures` are files beside it that are shown first."""
    parts = [f"# {escaped(title(table))}", *(f"![{escaped(title(table))}]({file})" for file in pictures)]
    parts += [f"> **Warning.** {escaped(text)}" for text in table.warnings]
    parts.append(" ".join(scope(table)))
    head = ["", *(f"{head.group}: {head.heading}" for head in table.heads)]
    body = [[escaped(line.label), *map(markdown_cell, line.cells)] for line in table.lines]
    parts.append(markdown([head, *body]))
    if table.notes:
        parts.append(bullets(map(escaped, table.notes)))
    parts.append("## Does the paper's ordering hold here?")
    for found in table.orderings:
        parts.append(escaped(ordering_text(found)))
        if rows := ordering_rows(found):
            parts.append(markdown([[escaped(text) for text in row] for row in rows]))
    parts.append(INTERVALS if table.orderings else NO_CLAIM)
    provenance = provenance_text(table.provenance, table.compute)
    parts += ["## Provenance", bullets(f"{what}: {escaped(text)}" for what, text in provenance)]
    if table.panels:
        parts += ["## Pictures", bullets(f"[{escaped(label)}]({file})" for label, file in table.panels)]
    return "\n\n".join(parts) + "\n"


def bullets(texts: Iterable[str]) -> str:
    return "\n".join(f"* {text}" for text in texts)


def escaped(text: str) -> str:
    """Text that Markdown takes as it is: `<error>` is no tag, and the star of `NAFNet*` no emphasis."""
    return text.replace("*", "\\*").replace("<", "\\<")


def markdown_cell(cell: Cell) -> str:
    shown = escaped(number(cell))
    return {"best": f"**{shown}**", "second": f"<u>{shown}</u>"}.get(cell.mark, shown) + rest(cell)


def to_csv(table: Table) -> str:
    """A row of the table a line, numbers in full. A measured column has four fields, and each line its provenance."""
    lines: list[dict[str, Any]] = []
    origin = {"scale": table.scale} | dict(provenance_text(table.provenance, table.compute))
    for line in table.lines:
        fields: dict[str, Any] = {
            "table": table.name,
            "row": line.name or "baseline",
            "label": line.label,
            "state": line.state,
        }
        for head, cell in zip(table.heads, line.cells, strict=True):
            fields |= csv_fields(head, cell)
        lines.append(fields | origin)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def csv_fields(head: Head, cell: Cell) -> dict[str, Any]:
    name = f"{head.group}: {head.heading}"
    shown = cell.word if cell.value is None else repr(cell.value)
    if head.group == "paper":
        return {name: shown}
    counts: dict[str, float | None] = {f"{name}, images": cell.images, f"{name}, seeds": cell.seeds or None}
    if head.metric == "prior_worth":
        low, high = cell.interval or (None, None)
        counts = {f"{name}, low": low, f"{name}, high": high} | counts
    return {name: shown, f"{name}, sd": cell.sd} | counts


LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "δ": r"$\delta$",
    "†": r"\dag{}",
}


def latex(text: str) -> str:
    """Plain text with all that LaTeX would read as commands escaped."""
    return "".join(LATEX.get(character, character) for character in text)


def to_latex(table: Table) -> str:
    """A `table` environment for a document with \\usepackage{booktabs}; what stands below it included."""
    groups = [(group, sum(head.group == group for head in table.heads)) for group in ("paper", "here")]
    groups = [(group, width) for group, width in groups if width]
    over, rules, column = [], [], 2
    for group, width in groups:
        over.append(f"\\multicolumn{{{width}}}{{c}}{{{latex(group_heading(table, group))}}}")
        rules.append(f"\\cmidrule(lr){{{column}-{column + width - 1}}}")
        column += width
    body = [" & ".join([latex(line.label), *map(latex_cell, line.cells)]) + r" \\" for line in table.lines]
    below = [*(f"Warning. {text}" for text in table.warnings), *table.notes]
    for found in table.orderings:
        below.append(ordering_text(found))
        below += [f"{row[0]} and {row[1]}: {', '.join(row[2:])}." for row in ordering_rows(found)[1:]]
    below.append(INTERVALS if table.orderings else NO_CLAIM)
    below += [f"{what}: {text}." for what, text in provenance_text(table.provenance, table.compute)]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
            f"\\caption{{{latex(table.title)}. {latex(' '.join(scope(table)))}}}",
            f"\\label{{tab:{table.name}-{table.scale}}}",
            f"\\begin{{tabular}}{{l*{{{len(table.heads)}}}{{r}}}}",
            r"\toprule",
            " & ".join(["", *over]) + r" \\",
            "".join(rules),
            " & ".join(["", *(latex(head.heading) for head in table.heads)]) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\par\raggedright",
            *(f"{latex(text)}\\par" for text in below),
            r"\end{table}",
            "",
        ]
    )


def latex_cell(cell: Cell) -> str:
    shown = latex(number(cell))
    shown = {"best": f"\\textbf{{{shown}}}", "second": f"\\underline{{{shown}}}"}.get(cell.mark, shown)
    return shown + latex(rest(cell))


def plain(table: Table) -> dict[str, Any]:
    """The table in JSON's types; `restored` makes it one again. Infinite values become words, since JSON has none."""
    found: dict[str, Any] = finite(json.loads(json.dumps(asdict(table))))
    return found


def restored(plain: dict[str, Any]) -> Table:
    """Raises `ValueError`, `KeyError`, `TypeError` or `AttributeError` where `plain` is no table."""
    parts = {
        "heads": [Head(**head) for head in plain["heads"]],
        "lines": [read_line(line) for line in plain["lines"]],
        "orderings": [
            Ordering(**found | {"pairs": list(map(read_pair, found["pairs"]))}) for found in plain["orderings"]
        ],
        "panels": [(label, file) for label, file in plain["panels"]],
    }
    return Table(**plain | parts)


def read_line(plain: dict[str, Any]) -> Line:
    cells = [
        Cell(**cell | {"value": number_or_none(cell["value"]), "interval": interval_or_none(cell["interval"])})
        for cell in plain["cells"]
    ]
    baseline = {metric: float(value) for metric, value in plain["baseline"].items()}
    return Line(**plain | {"cells": cells, "baseline": baseline})


def read_pair(plain: dict[str, Any]) -> Pair:
    parts = {"difference": number_or_none(plain["difference"]), "interval": interval_or_none(plain["interval"])}
    return Pair(**plain | parts | {"steps": None if plain["steps"] is None else tuple(plain["steps"])})


def interval_or_none(value: Sequence[float | str] | None) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))


def number_or_none(value: float | str | None) -> float | None:
    return None if value is None else float(value)
