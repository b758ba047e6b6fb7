"""Quality against milliseconds, a point a method and number of steps: docs/tradeoff.svg, and the same as a table.

    python experiments/tradeoff.py

Reads the kept tables of x4 super-resolution, the records behind them, and results/demo/tradeoff/milliseconds.json,
which benchmarks/milliseconds.py measures: the seconds of records are of several machines. Writes the table beside that
file.
"""

import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from summary import processor_seconds

from diffi2i.files import whole
from diffi2i.metrics.spec import METRICS
from diffi2i.run.plan import RUNS
from diffi2i.run.record import Record
from diffi2i.tables.figures import BLUE, GREY, STYLE, VERMILION
from diffi2i.tables.frame import Found
from diffi2i.tables.markdown import markdown
from diffi2i.tables.ordering import difference
from diffi2i.tables.table import Table

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "demo"
TIMES, PAGE = (RESULTS / "tradeoff" / name for name in ("milliseconds.json", "tradeoff.md"))
PICTURE = HERE.parent / "docs" / "tradeoff.svg"
# A marker and a colour each; with those of `figures` Okabe and Ito's.
TABLES = {
    "study-sisr": ("o", BLUE),
    "neighbours1": ("s", VERMILION),
    "neighbours2": ("^", "#009e73"),
    "neighbours3": ("D", "#aa4499"),
}
MARKED = "study-sisr/diffi2i"
SCORES = ("psnr_y", "lpips_alex")
LEAST = 0.8
"""A row with a smaller share of the processor seconds of its table's median row is left out: others start from it."""
PLACES = [(x, y) for far in (12, 16, 22, 28) for x, y in [
    (far, 0), (-far, 0), (far, far), (-far, far), (far, -far), (-far, -far), (0, far), (0, -far),
]]  # fmt: skip
"""Where the number of a point may stand from it, in typographic points, the best first."""
ROOM = (11, 9)  # that it takes, in these
COLUMN = 42  # characters of a line below the picture


def kept() -> dict[str, Table]:
    """The tables that are there; the others are named."""
    found = {}
    for name in TABLES:
        file = RESULTS / f"{name}.json"
        if file.is_file():
            found[name] = Table.from_json(json.loads(file.read_text(encoding="utf-8")))
        else:
            print(f"{name} is not kept yet: left out", file=sys.stderr)
    return found


def records_of(tables: dict[str, Table]) -> Found:
    """All records, a row as `<table>/<row>`: those of other images than the others' are none of them."""
    files = {
        (f"{name}/{run['row']}", run["seed"], ""): RESULTS.parent / Path(run["file"]).relative_to(RUNS)
        for name, table in tables.items()
        for run in table.runs
        if run["file"] and not run["dataset"]
    }
    return Found({key: Record.read(file) for key, file in files.items()}, files)


def points_of(tables: dict[str, Table], measured: dict[str, Any]) -> pd.DataFrame:
    """A line a point, numbered from left to right table by table.

    Of each score the mean over the seeds, their deviation, and the interval of the difference from the marked row, at
    the height of the point: so a bar that ends above or below that row tells the two apart. `trained` is the same for
    points that are one trained network; a row scored anew is no `own`.
    """
    found, timed = records_of(tables), {row["row"]: row for row in measured["rows"]}
    lines = []
    for name, table in tables.items():
        spent = {row: float(np.mean(each)) for row, each in processor_seconds(table).items()}
        labels = dict(zip(table.cells.row, table.cells.label, strict=True))
        for row in (row for row in spent if row in labels):
            key = f"{name}/{row}"
            records = [record for (of, _, _), record in found.records.items() if of == key]
            if not records or key not in timed:
                why = "is not timed" if records else "has no record that compares"
                print(f"{key} {why}: left out", file=sys.stderr)
                continue
            method, training = records[0].method, records[0].training
            assert method is not None
            assert training is not None
            line = {"key": key, "table": name, "label": labels[row], "seconds": spent[row], "own": not method.settings}
            line |= {each: timed[key][each] for each in ("ms", "calls")} | {"trained": (method.name, training.weights)}
            for score in SCORES:
                of_row = found.scores[(found.scores.row == key) & (found.scores.metric == score)]
                line |= {score: of_row.value.mean(), f"{score}, sd": of_row.value.std()}
                apart = difference(found, key, MARKED, score)
                numbers = apart.numbers() if apart else {}
                line |= {f"{score}, {end}": numbers.get(end, np.nan) for end in ("value", "low", "high")}
            lines.append(line)
    points = pd.DataFrame(lines)
    few = points.seconds < LEAST * points.groupby("table").seconds.transform("median")
    for point in points[few].itertuples():
        print(f"{point.key} has had {point.seconds:.0f} processor seconds: left out", file=sys.stderr)
    points = points[~few]
    order = points.table.map([*TABLES].index)
    points = points.assign(order=order).sort_values(["order", "ms"], kind="stable").reset_index(drop=True)
    return points.assign(number=points.index + 1)


def inputs_of(tables: dict[str, Table]) -> dict[str, float]:
    """What the input itself scores."""
    cells = next(iter(tables.values())).cells
    return {score: cells.baseline[cells.metric == score].dropna().iloc[0] for score in SCORES}


def lines_of(points: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The step counts of each trained network: the run's own, and of the others one for each number of calls."""
    first = points.sort_values("own", ascending=False, kind="stable").drop_duplicates(["trained", "calls"])
    for _, line in first.groupby("trained", sort=False):
        yield line.sort_values("calls")


def page(points: pd.DataFrame, inputs: dict[str, float]) -> str:
    """Markdown: the points of the picture."""
    (marked,) = points.label[points.key == MARKED]
    head = ["", *(text for score in SCORES for text in (METRICS[score].titled, f"against {marked}"))]
    head += ["ms", "network calls", "processor seconds"]
    baseline = ["input itself", *(text for score in SCORES for text in (shown(score, inputs[score]), ""))]
    rows = [head, [*baseline, "", "", ""]]
    for point in points.to_dict("records"):
        row = [f"{point['number']}. {point['label']}"]
        for score in SCORES:
            row.append(f"{shown(score, point[score])} ± {shown(score, point[f'{score}, sd'])}")
            value, low, high = (shown(score, point[f"{score}, {end}"], "+") for end in ("value", "low", "high"))
            row.append("" if point["key"] == MARKED else f"{value} [{low}, {high}]")
        rows.append([*row, f"{point['ms']:.0f}", str(point["calls"]), f"{point['seconds']:.0f}"])
    return markdown(rows) + "\n"


def shown(score: str, value: float, sign: str = "") -> str:
    return f"{value:{sign}.{METRICS[score].digits}f}"


def draw(points: pd.DataFrame, inputs: dict[str, float], tables: dict[str, Table], measured: dict[str, Any]) -> Figure:
    """All points, below them those that are better than the input, below that what the numbers stand for."""
    with mpl.rc_context(STYLE):
        figure = Figure((13, 11.4), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=[3, 1.35])
        above, below = parts
        panels, numbered = above.subplots(2, len(SCORES)), []
        for (whole_range, near), score in zip(panels.T, SCORES, strict=True):
            sign = -1 if METRICS[score].lower else 1
            better = points[sign * points[score] > sign * inputs[score]]
            panel(whole_range, points, score, inputs[score], "all")
            panel(near, better, score, inputs[score], "those better than the input itself, enlarged")
            numbered += [(whole_range, points, score), (near, better, score)]
        for axes in panels[-1]:
            axes.set_xlabel("milliseconds a prediction")
        above.suptitle(caption(points, tables, measured), x=0.01, ha="left", size=9)
        legends(below, points, tables)
        figure.draw_without_rendering()  # only now it is known where the points are
        for axes, shown_there, score in numbered:
            number(axes, shown_there, score)
    return figure


def caption(points: pd.DataFrame, tables: dict[str, Table], measured: dict[str, Any]) -> str:
    """What was measured on what, and how to read it."""
    (marked,) = points.label[points.key == MARKED]
    cells = pd.concat([table.cells for table in tables.values()])
    images, seeds = (f"{cells[each].dropna().max():.0f} {each}" for each in ("images", "seeds"))
    size, rounds, threads = (measured[each] for each in ("size", "rounds", "threads"))
    return (
        f"Scores: mean of {images} and {seeds}. Milliseconds: one image, {size}x{size} at the output, fp32, "
        f"threads: {threads}, median of {rounds} rounds in turn.\nBars: 95 % interval of the difference from {marked} "
        "(star, dotted line), image by image. Thin lines: the same trained network, other numbers of steps."
    )


def panel(axes: Axes, points: pd.DataFrame, score: str, baseline: float, title: str) -> None:
    """One score against the milliseconds, better ones above."""
    metric = METRICS[score]
    for line in lines_of(points):
        axes.plot(line.ms, line[score], color=TABLES[line.table.iloc[0]][1], linewidth=0.8, alpha=0.7, zorder=1)
    for point in points.to_dict("records"):
        marker, colour = look(point)
        value, low, high = (point[f"{score}, {end}"] for end in ("value", "low", "high"))
        if point["key"] != MARKED and not np.isnan(low):
            bar = [[value - low], [high - value]]
            axes.errorbar(point["ms"], point[score], bar, color=colour, elinewidth=0.7, alpha=0.5, zorder=1)
        size = 13 if point["key"] == MARKED else 6
        axes.plot(point["ms"], point[score], marker, color=colour, markersize=size, markeredgecolor="white", zorder=3)
    level(axes, baseline, "input itself", "top", GREY, "--")
    for point in points[points.key == MARKED].to_dict("records"):
        level(axes, point[score], point["label"], "bottom", "black", ":")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(0.06, 0.08)
    if metric.lower:
        axes.invert_yaxis()
    axes.set(title=title, ylabel=metric.titled + ", upside down: better is above" * metric.lower)


def level(axes: Axes, value: float, label: str, side: str, colour: str, line: str) -> None:
    """A line across, with its label at the right end, its `top` or its `bottom` at the line."""
    axes.axhline(value, color=colour, linestyle=line, linewidth=1, zorder=0)
    axes.annotate(
        label, (1, value), xycoords=("axes fraction", "data"), xytext=(-2, 3 if side == "bottom" else -3),
        textcoords="offset points", ha="right", va=side, color=colour,
    )  # fmt: skip


def look(point: dict[Any, Any]) -> tuple[str, str]:
    """Marker and colour."""
    return ("*", "black") if point["key"] == MARKED else TABLES[point["table"]]


def number(axes: Axes, points: pd.DataFrame, score: str) -> None:
    """The points' numbers, each where it covers least of what is there already."""
    scale = 72 / axes.figure.dpi
    places = scale * axes.transData.transform(np.column_stack([points.ms, points[score]]))
    frame = scale * axes.get_window_extent().get_points()
    taken = [*places]
    for point, place in zip(points.to_dict("records"), places, strict=True):
        candidates = [place + np.array(offset) for offset in PLACES]
        within = [bool((frame[0] < each).all() and (each < frame[1]).all()) for each in candidates]
        best = min(range(len(PLACES)), key=lambda i: (not within[i], covered(candidates[i], taken)))
        taken.append(candidates[best])
        axes.annotate(
            str(point["number"]), (point["ms"], point[score]), xytext=PLACES[best], textcoords="offset points",
            ha="center", va="center", color=look(point)[1], weight="bold" if point["key"] == MARKED else "normal",
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": GREY, "shrinkA": 4, "shrinkB": 3},
        ).set_in_layout(False)  # fmt: skip


def covered(place: Any, taken: Sequence[Any]) -> int:
    """How many numbers and points a number would cover there."""
    return sum(bool((abs(place - other) < ROOM).all()) for other in taken)


def legends(part: Any, points: pd.DataFrame, tables: dict[str, Table]) -> None:
    """A column a table: the numbers, and what they stand for."""
    for axes, (name, table) in zip(np.ravel(part.subplots(1, len(tables))), tables.items(), strict=True):
        axes.set_axis_off()
        of_table = points[points.table == name].to_dict("records")
        handles = [Line2D([], [], marker=look(each)[0], color=look(each)[1], linestyle="") for each in of_table]
        labels = [textwrap.fill(f"{each['number']}  {each['label']}", COLUMN) for each in of_table]
        title = textwrap.fill(table.title, COLUMN)
        legend = axes.legend(
            handles, labels, title=title, loc="upper left", borderpad=0, handlelength=1, alignment="left",
        )  # fmt: skip
        legend.get_title().set_weight("bold")


def main() -> None:
    if not TIMES.is_file():
        sys.exit(f"{TIMES} is not there: python benchmarks/milliseconds.py output={TIMES.relative_to(HERE.parent)}")
    tables, measured = kept(), json.loads(TIMES.read_text(encoding="utf-8"))
    points, inputs = points_of(tables, measured), inputs_of(tables)
    text = page(points, inputs)
    with whole(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    save(draw(points, inputs, tables, measured), PICTURE)
    print(text)


def save(figure: Figure, file: Path) -> None:
    with mpl.rc_context(STYLE), whole(file) as temporary:
        # Without the metadata, which would name the day.
        figure.savefig(temporary, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))


if __name__ == "__main__":
    main()
