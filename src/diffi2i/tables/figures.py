"""Figures 1 and 6, drawn from their tables.

The paper's values and ours never share an axis: they are of other data, and their seconds of another machine.
"""

from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffi2i.files import inside
from diffi2i.metrics.spec import COSTS, FEW_IMAGES, METRICS
from diffi2i.tables.experiment import SECONDS, Experiment
from diffi2i.tables.remarks import counted
from diffi2i.tables.table import HERE, PAPER, Table

# Of Okabe and Ito's palette, which the colour-blind tell apart; they differ in lightness too.
BLUE, VERMILION, GREY = "#0072b2", "#d55e00", "#666666"
ACROSS = 3
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
        measured = table.cells[table.cells.value.notna()]
        if experiment.x == SECONDS:
            scatter(figure, table, measured)
        else:
            curves(figure, experiment, table, measured)
        if not any(axes.has_data() for axes in figure.axes):
            figure.text(0.5, 0.5, "nothing measured yet", ha="center", color=GREY)
        return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    """Writes `<stem>.svg` and `<stem>.png`."""
    files = [inside(stem.parent, f"{stem.name}.{kind}") for kind in ("svg", "png")]
    with mpl.rc_context(STYLE):
        # Without the metadata, which would name the day.
        figure.savefig(files[0], metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        figure.savefig(files[1], dpi=150)
    return files


def measured_with(table: Table) -> str:
    """`measured here, budget=demo, 2 seeds (bars: standard deviation)`."""
    seeds = table.cells.seeds.max()
    bars = " (bars: standard deviation)" if seeds > 1 else ""
    return f"measured here, budget={table.budget}, {counted(seeds, 'seed')}{bars}"


def y_label(cells: pd.DataFrame) -> str:
    return str(cells.heading.iloc[0]) + f"\n(† fewer than {FEW_IMAGES} images)" * bool(cells.few.any())


def scatter(figure: Figure, table: Table, measured: pd.DataFrame) -> None:
    """Quality against runtime, a panel a task: the paper's in grey, below them ours.

    A panel has the methods of one of the paper's qualities; ours are by that score, or where it is not measured by the
    main metric.
    """
    paper, here = (measured[measured.origin == origin] for origin in (PAPER, HERE))
    qualities = [of for _, of in paper[paper.metric.isin([*METRICS])].groupby("heading", sort=False)]
    ours = []
    for quality in qualities:
        mine = here[here.row.isin(quality.row)]
        metric = quality.metric.iloc[0]
        ours.append(mine[mine.metric == (metric if metric in set(mine.metric) else mine.main)])
    hardware = "; ".join(table.provenance["hardware"])
    blocks = [("the paper's values, on its hardware", paper, qualities, GREY)]
    blocks.append((f"{measured_with(table)}, on {hardware}", here, ours, BLUE))
    panels = [(title, with_times(cells, of), colour) for title, cells, of, colour in blocks]
    panels = [(title, found, colour) for title, found, colour in panels if found]
    rows = [-(-len(found) // ACROSS) for _, found, _ in panels]
    figure.set_size_inches(ACROSS * WIDTH, sum(rows) * HEIGHT + 0.3 * len(rows))
    parts = figure.subfigures(len(panels), 1, height_ratios=rows, squeeze=False)[:, 0]
    for (title, found, colour), count, part in zip(panels, rows, parts, strict=True):
        part.suptitle(title, x=0.01, ha="left", weight="bold", size=10)
        for number, points in enumerate(found):
            panel(part.add_subplot(count, ACROSS, number + 1), points, colour)


def with_times(cells: pd.DataFrame, qualities: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """The cells of each quality with `time` and `time_sd` of their rows, those that have some."""
    times = cells[cells.metric == SECONDS].set_index("row")[["value", "sd"]].set_axis(["time", "time_sd"], axis=1)
    joined = [quality.join(times, on="row", how="inner") for quality in qualities]
    return [points for points in joined if len(points)]


def panel(axes: Axes, points: pd.DataFrame, colour: str) -> None:
    """A scatter of quality against runtime. Labels say method and task: `<method>, deblurring`."""
    for point, marker in zip(points.itertuples(), cycle("os^Dv")):
        axes.errorbar(
            point.time,
            point.value,
            bar(point.sd),
            bar(point.time_sd),
            fmt=marker,
            color=colour,
            capsize=3,
            elinewidth=1,
            label=point.label.partition(", ")[0],
        )
    for baseline in points.baseline.dropna().head(1):
        axes.axhline(baseline, color=GREY, linestyle="--", linewidth=1, label="baseline")
    axes.margins(0.25, 0.3)
    if points.time.max() > 10 * points.time.min():
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, 2 * points.time.max())
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
    axes.set(title=points.label.iloc[0].partition(", ")[2], xlabel=COSTS[SECONDS].titled, ylabel=y_label(points))
    axes.legend(loc="best", fontsize=7)


def bar(deviation: float) -> float | None:
    """None where there is none: matplotlib would draw its caps in the legend."""
    return None if pd.isna(deviation) else deviation


def curves(figure: Figure, experiment: Experiment, table: Table, measured: pd.DataFrame) -> None:
    """Each score along `x`: the experiment's curves, and a line across for the rows without a prior."""
    scores = list(measured[measured.metric.isin([*METRICS])].groupby(["origin", "heading"], sort=False))
    figure.set_size_inches(max(1, len(scores)) * 1.5 * WIDTH, 1.4 * HEIGHT)
    styles = [("o", "-", BLUE), ("s", "--", VERMILION)]
    for number, ((origin, _), cells) in enumerate(scores):
        axes = figure.add_subplot(1, len(scores), number + 1)
        by_row = cells.set_index("row")
        for (label, places), (marker, line, colour) in zip(experiment.curves.items(), cycle(styles)):
            shown = by_row.join(pd.Series(places, name="x"), how="inner").sort_values("x")
            axes.errorbar(
                shown.x,
                shown.value,
                shown.sd,
                label=label,
                marker=marker,
                linestyle=line,
                color=GREY if origin == PAPER else colour,
                capsize=3,
                elinewidth=1,
            )
        for row in by_row.index.intersection(list(experiment.controls)):
            axes.axhline(by_row.value[row], label=by_row.label[row], color=GREY, linestyle=":", linewidth=1)
        axes.set_xticks(sorted({x for places in experiment.curves.values() for x in places.values()}))
        title = "the paper's values" if origin == PAPER else measured_with(table)
        axes.set(title=title, xlabel=experiment.x, ylabel=y_label(cells))
    if scores:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
