"""A table or figure as data: all that every format prints."""

from dataclasses import dataclass, field

from diffi2i.tables.ordering import Ordering


@dataclass(frozen=True)
class Head:
    """A column. `group` is `paper` (its values) or `here` (measured); `dataset` a test set of the paper, or empty."""

    group: str
    heading: str
    metric: str
    digits: int
    dataset: str = ""


@dataclass(frozen=True)
class Cell:
    """A number, or a `word` in its place, or nothing.

    `value` is the mean over `seeds`, in the units of `metrics.spec`, and `sd` their standard deviation (n - 1; None for
    fewer than two). `interval` is a paired 95 % interval, where the value is a difference. `images` is how many each
    seed scored; None for costs and for the paper. `mark` is `best` or `second`.
    `few`: a distance between sets of fewer than `metrics.spec.FEW_IMAGES`.
    """

    value: float | None = None
    digits: int = 4
    sd: float | None = None
    images: int | None = None
    seeds: int = 0
    word: str = ""
    mark: str = ""
    few: bool = False
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Line:
    """A row. `name` is empty for the baseline. `baseline` is the score of the row's inputs, by metric.

    `state` is `measured`, `failed`, `not run` or `paper` (a peer, whose value is the paper's alone). `main` is the main
    metric of its task.
    """

    name: str
    label: str
    cells: list[Cell]
    state: str
    main: str = ""
    baseline: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """All that is printed. `provenance` lists each distinct value; `compute` is the seconds of training by run.

    `panels` are (label, file) of pictures, the file relative to the table's own folder.
    """

    name: str
    title: str
    scale: str
    heads: list[Head]
    lines: list[Line]
    orderings: list[Ordering]
    warnings: list[str]
    notes: list[str]
    provenance: dict[str, list[str]]
    compute: dict[str, float]
    panels: list[tuple[str, str]] = field(default_factory=list)


def title(table: Table) -> str:
    """`Table 7: ...`."""
    return f"{called(table.name)}: {table.title}"


def called(name: str) -> str:
    """`Table 7` for table7; another name as it is."""
    for kind in ("table", "figure"):
        if name.removeprefix(kind).isdecimal() and name.startswith(kind):
            return f"{kind.capitalize()} {name.removeprefix(kind)}"
    return name
