"""What `diffi2i bench` measured, as a table, as JSON and as a plot."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

import matplotlib as mpl
from matplotlib.figure import Figure

from diffi2i.files import inside, whole, write_json
from diffi2i.run.record import Provenance
from diffi2i.tables.figures import BLUE, STYLE
from diffi2i.tables.markdown import markdown


@dataclass(frozen=True)
class Row:
    """One case.

    `parts` are parameters by part, `seconds` those of a prediction in each round, `ratio` that to the first case with
    its 95 % interval. Of `calls` network calls, each of `macs_of_call`, `timed_calls` were timed.
    """

    name: str
    task: str
    model: str
    size: list[int]
    parts: dict[str, int]
    parameters: int
    macs: int
    macs_of_call: int
    calls: int
    timed_calls: int
    seconds: list[float]
    cpu_seconds: float
    ratio: float
    ratio_low: float | None
    ratio_high: float | None
    peak_memory_mb: float


HEAD = (
    "",
    "parameters (M)",
    "G MACs a call",
    "calls",
    "G MACs",
    "ms",
    "spread (ms)",
    "processor ms",
    "ratio",
    "95 % interval",
    "peak memory (MiB)",
)


def cells(row: Row) -> list[str]:
    low, high = spread(row.seconds)
    interval = "" if row.ratio_low is None or row.ratio_high is None else f"{row.ratio_low:.3g} to {row.ratio_high:.3g}"
    reckoned = "" if row.timed_calls == row.calls else "~"
    return [
        row.name,
        f"{row.parameters / 1e6:.3f}",
        f"{row.macs_of_call / 1e9:.3f}",
        str(row.calls),
        f"{row.macs / 1e9:.3f}",
        f"{reckoned}{1e3 * median(row.seconds):.1f}",
        f"{1e3 * low:.1f} to {1e3 * high:.1f}",
        f"{reckoned}{1e3 * row.cpu_seconds:.1f}",
        f"{row.ratio:.3g}",
        interval,
        f"{row.peak_memory_mb:.0f}",
    ]


def spread(seconds: Sequence[float]) -> tuple[float, float]:
    """The quartiles; of fewer than four rounds the ends."""
    if len(seconds) < 4:
        return min(seconds), max(seconds)
    first, _, third = quantiles(seconds, n=4)
    return first, third


def page(rows: Sequence[Row], device: str) -> str:
    """Markdown: the table, and under it what its columns mean."""
    height, width = rows[0].size
    lines = [markdown([HEAD, *map(cells, rows)]), ""]
    lines += [
        f"One image, output {height}x{width}, on {device}; median of {len(rows[0].seconds)} interleaved rounds, its "
        "quartiles (of fewer than four rounds the ends), ratio to the first row. Peak memory is that of a process of "
        "its own, above what it had before the method was made."
    ]
    lines += [
        f"~ {row.name}: timed on {row.timed_calls} of {row.calls} network calls, the rest reckoned."
        for row in rows
        if row.timed_calls != row.calls
    ]
    for row in rows if len(rows) == 1 else []:
        lines += [f"{name}: {count / 1e6:.3f} M parameters" for name, count in row.parts.items()]
    return "\n".join(lines) + "\n"


def write(rows: Sequence[Row], provenance: Provenance, device: str, folder: Path) -> None:
    """Prints the page and writes `bench.md`, `bench.json` and `bench.png`."""
    text = page(rows, device)
    print(text, end="")
    folder.mkdir(parents=True, exist_ok=True)
    with whole(inside(folder, "bench.md")) as temporary:
        temporary.write_text(text)
    write_json(
        inside(folder, "bench.json"),
        {"device": device, "cases": [asdict(row) for row in rows], "provenance": asdict(provenance)},
    )
    plot(rows, inside(folder, "bench.png"))


def plot(rows: Sequence[Row], file: Path) -> None:
    """A bar a case, with its quartiles, on a logarithmic axis."""
    middles = [1e3 * median(row.seconds) for row in rows]
    ends = [spread(row.seconds) for row in rows]
    errors = [
        [max(0.0, middle - 1e3 * low) for middle, (low, _) in zip(middles, ends, strict=True)],
        [max(0.0, 1e3 * high - middle) for middle, (_, high) in zip(middles, ends, strict=True)],
    ]
    with mpl.rc_context(STYLE):
        figure = Figure((8, 1 + 0.4 * len(rows)), layout="constrained")
        axes = figure.subplots()
        axes.barh([row.name for row in rows], middles, xerr=errors, color=BLUE)
        axes.set_xscale("log")
        axes.set_xlabel("milliseconds an image")
        axes.invert_yaxis()
        figure.savefig(file, dpi=150)
