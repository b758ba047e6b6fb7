"""Figures 1 and 6, drawn from their tables.

The paper's values and ours never share an axis: they are of other data, and their seconds of another machine.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from diffi2i.metrics.spec import COSTS, FEW_IMAGES, GAINS
from diffi2i.tables.experiment import Column, Experiment, Row, timesteps
from diffi2i.tables.formats import counted
from diffi2i.tables.table import Cell, Head, Table
from diffi2i.tables.values import heading

# Two colours of Okabe and Ito's palette, which the colour-blind tell apart; they differ in lightness too.
BLUE, VERMILION, GREY = "#0072b2", "#d55e00", "#666666"
ACROSS = 3
BASELINE = "baseline"
WIDTH, HEIGHT = 3.4, 2.6  # of a panel, in inches
# `Any`: matplotlib's own type lists all its keys.
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "legend.frameon": False,
    # The same figure gives the same file.
    "svg.hashsalt": "diffi2i",
}


def draw(experiment: Experiment, table: Table) -> Figure:
    """The figure of an experiment whose `x` is not None."""
    with mpl.rc_context(STYLE):
        figure = Figure(layout="constrained")
        if experiment.x == "seconds_per_image":
            scatter(figure, experiment, table)
        else:
            curves(figure, experiment, table)
        if not any(axes.has_data() for axes in figure.axes):
            figure.text(0.5, 0.5, "nothing measured yet", ha="center", color=GREY)
        return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    """Writes `<stem>.svg` and `<stem>.png`."""
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in ("svg", "png")]
    with mpl.rc_context(STYLE):
        # Without the metadata, which would name the day.
        figure.savefig(files[0], metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        figure.savefig(files[1], dpi=150)
    return files


def cells_of(table: Table, head: Head) -> dict[str, Cell]:
    """A column's cells by row, those with a finite number."""
    index = table.heads.index(head)
    cells = {line.name: line.cells[index] for line in table.lines if line.name}
    return {name: cell for name, cell in cells.items() if cell.value is not None and math.isfinite(cell.value)}


def y_label(head: Head, cells: Mapping[str, Cell]) -> str:
    return head.heading + f"\n(† fewer than {FEW_IMAGES} images)" * any(cell.few for cell in cells.values())


def measured_with(table: Table) -> str:
    """`measured here, scale=demo, 2 seeds (bars: standard deviation)`."""
    seeds = max(cell.seeds for line in table.lines for cell in line.cells)
    bars = " (bars: standard deviation)" if seeds > 1 else ""
    return f"measured here, scale={table.scale}, {counted(seeds, 'seed')}{bars}"


@dataclass(frozen=True)
class Panel:
    """Points of one task, by label. `baseline` is what the input itself scores, or a constant."""

    title: str
    y_label: str
    points: dict[str, tuple[Cell, Cell]]
    baseline: float | None = None


def scatter(figure: Figure, experiment: Experiment, table: Table) -> None:
    """Quality against runtime: the paper's panels in grey, below them ours, one a task."""
    blocks = [("the paper's values, on its hardware", paper_panels(experiment, table), GREY)]
    if ours := measured_panels(experiment, table):
        blocks.append((f"{measured_with(table)}, on {'; '.join(table.provenance['hardware'])}", ours, BLUE))
    blocks = [block for block in blocks if block[1]]
    rows = [-(-len(panels) // ACROSS) for _, panels, _ in blocks]
    figure.set_size_inches(ACROSS * WIDTH, sum(rows) * HEIGHT + 0.3 * len(rows))
    parts = figure.subfigures(len(blocks), 1, height_ratios=rows, squeeze=False)[:, 0]
    for (title, panels, colour), count, part in zip(blocks, rows, parts, strict=True):
        part.suptitle(title, x=0.01, ha="left", weight="bold", size=10)
        for number, panel in enumerate(panels):
            points(part.add_subplot(count, ACROSS, number + 1), panel, colour)
    figure.draw_without_rendering()  # only now do the labels have places
    for axes in figure.axes:
        place_labels(axes)


def task_of(row: Row) -> str:
    """The task that a row's overrides name; empty for a row that is not run."""
    named = [text.removeprefix("task=") for text in row.overrides or [] if text.startswith("task=")]
    return named[-1] if named else ""


def paper_panels(experiment: Experiment, table: Table) -> list[Panel]:
    """For each quality of which the paper also prints runtimes."""
    heads = dict(zip(range(len(experiment.columns)), table.heads, strict=False))
    seconds = next(head for head in heads.values() if head.metric == "seconds_per_image")
    labels = {row.name: row.label for row in experiment.rows}
    panels = []
    for head in heads.values():
        if head.metric in COSTS:
            continue
        times, qualities = cells_of(table, seconds), cells_of(table, head)
        both = {short(labels[name]): (times[name], quality) for name, quality in qualities.items() if name in times}
        if both:
            tasks = [task_of(row) for row in experiment.rows if row.name in qualities]
            panels.append(Panel(next(filter(None, tasks), ""), head.heading, both))
    return panels


def measured_panels(experiment: Experiment, table: Table) -> list[Panel]:
    """For each of the paper's qualities its rows, by that score, or where it is not measured by the main metric."""
    here = [head for head in table.heads if head.group == "here"]
    times = cells_of(table, next(head for head in here if head.metric == "seconds_per_image"))
    lines = {line.name: line for line in table.lines}
    panels = []
    for number, column in enumerate(experiment.columns):
        rows = [row for row in experiment.rows if row.paper[number] is not None and row.name in times]
        if column.metric in COSTS or not rows:
            continue
        head = own_head(here, column)
        if not any(row.name in cells_of(table, head) for row in rows):
            head = next(each for each in here if each.metric == lines[rows[0].name].main)
        cells = cells_of(table, head)
        both = {short(row.label): (times[row.name], cells[row.name]) for row in rows if row.name in cells}
        baseline = lines[rows[0].name].baseline.get(head.metric)
        panels.append(Panel(task_of(rows[0]), y_label(head, cells), both, baseline))
    return panels


def own_head(heads: Sequence[Head], column: Column) -> Head:
    """The measured column that stands beside a column of the paper."""
    return next(head for head in heads if head.metric == column.metric and head.dataset in ("", column.dataset))


def short(label: str) -> str:
    """A label without the task, which the panel's title names."""
    return label.partition(", ")[0]


def points(axes: Axes, panel: Panel, colour: str) -> None:
    """A scatter of quality against runtime."""
    times = [time.value or 0.0 for time, _ in panel.points.values()]
    spread = max(times) > 10 * min(times)
    for label, (time, quality) in panel.points.items():
        assert time.value is not None
        assert quality.value is not None
        axes.errorbar(
            time.value, quality.value, quality.sd, time.sd, fmt="o", color=colour, capsize=3, elinewidth=1, label=label
        )
        axes.annotate(label, (time.value, quality.value), (0, 0), textcoords="offset points")
    if panel.baseline is not None:
        axes.axhline(panel.baseline, color=GREY, linestyle="--", linewidth=1)
        axes.annotate(
            BASELINE,
            (1, panel.baseline),
            (-2, 2),
            axes.get_yaxis_transform(),
            "offset points",
            ha="right",
            color=GREY,
        )
    axes.margins(0.25, 0.3)
    if spread:
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, 2 * max(times))
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
    axes.set(title=panel.title, xlabel=heading("seconds_per_image"), ylabel=panel.y_label)


# Where a label may stand beside its point: offsets in points, and the side and height at which it begins.
PLACES = [
    (x, y, "left" if x > 0 else "right" if x < 0 else "center", "bottom" if y > 0 else "top" if y < 0 else "center")
    for x, y in ((6, 3), (-6, 3), (6, -3), (-6, -3), (0, 7), (0, -7), (9, 0), (-9, 0), (6, 15), (-6, 15))
]


def place_labels(axes: Axes) -> None:
    """Puts each label where it is inside the axes, and on neither a point nor another label."""
    labels = [text for text in axes.texts if isinstance(text, Annotation) and text.get_text() != BASELINE]
    taken = [text.get_window_extent() for text in axes.texts if text not in labels]
    taken += [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in axes.transData.transform([text.xy for text in labels])]
    for label in labels:
        for x, y, side, height in PLACES:
            label.xyann = (x, y)
            label.set(ha=side, va=height)
            box = label.get_window_extent()
            inside = axes.bbox.xmin <= box.x0 and box.x1 <= axes.bbox.xmax and box.y1 <= axes.bbox.ymax
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)


def curves(figure: Figure, experiment: Experiment, table: Table) -> None:
    """Each score against the number of iterations: a run for each T, and one run re-spaced."""
    heads = [head for head in table.heads if head.metric not in (*COSTS, *GAINS) and cells_of(table, head)]
    controls = {row.control for row in experiment.rows if row.control}
    figure.set_size_inches(max(1, len(heads)) * 1.5 * WIDTH, 1.4 * HEIGHT)
    for number, head in enumerate(heads):
        axes = figure.add_subplot(1, len(heads), number + 1)
        cells = cells_of(table, head)
        for label, rows, marker, line, colour in two_curves(experiment):
            shown = sorted((timesteps(experiment, row), row.name) for row in rows if row.name in cells)
            axes.errorbar(
                [steps for steps, _ in shown],
                [cells[name].value or 0.0 for _, name in shown],
                [cells[name].sd or 0.0 for _, name in shown],
                label=label,
                marker=marker,
                linestyle=line,
                color=GREY if head.group == "paper" else colour,
                capsize=3,
                elinewidth=1,
            )
        for row in experiment.rows:
            if row.name in controls and row.name in cells:
                axes.axhline(cells[row.name].value or 0.0, label=row.label, color=GREY, linestyle=":", linewidth=1)
        axes.set_xticks(sorted({timesteps(experiment, row) for row in experiment.rows if row.name not in controls}))
        title = "the paper's values" if head.group == "paper" else measured_with(table)
        axes.set(title=title, xlabel="iterations of the reverse process", ylabel=y_label(head, cells))
    if heads:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)


def two_curves(experiment: Experiment) -> list[tuple[str, list[Row], str, str, str]]:
    """The rows of each curve, with label, marker, line and colour.

    Where a re-spaced run makes all of its steps it belongs to both.
    """
    controls = {row.control for row in experiment.rows}
    trained = [row for row in experiment.rows if not row.evaluation and row.name not in controls]
    respaced = [row for row in experiment.rows if row.evaluation]
    sources = [row.overrides for row in respaced]
    respaced += [row for row in trained if row.overrides is not None and row.overrides in sources]
    longest = max((timesteps(experiment, row) for row in respaced), default=0)
    found = [("trained for each T", trained, "o", "-", BLUE)]
    if respaced:
        found.append((f"trained for T = {longest}, re-spaced", respaced, "s", "--", VERMILION))
    return found
