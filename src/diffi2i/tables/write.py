"""A table's files: Markdown, CSV, LaTeX and JSON, all of the same cells, and the pictures of a figure."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import escape

from diffi2i.files import inside, whole, write_json
from diffi2i.metrics.spec import COLUMNS
from diffi2i.run.ensure import duration
from diffi2i.tables import figures
from diffi2i.tables.experiment import Experiment
from diffi2i.tables.markdown import markdown
from diffi2i.tables.ordering import NOT_MEASURED, Ordering, summary
from diffi2i.tables.remarks import counted
from diffi2i.tables.table import HERE, PAPER, Table

TABLES = Path("outputs") / "tables"
READING = {
    "paper": "The paper's values: its data, its training, its hardware.",
    "here": "Measured here: mean over seeds ± their standard deviation (number of images, of seeds).",
}
GAIN = (
    "Prior dependence: how much better the main score is with an image's own prior than with another image's. Prior "
    "worth: how much better it is than that of the same network trained as long without a prior."
)
MARKS = "Bold: the best of a column; underlined: the second."
INTERVALS = (
    "Intervals: bootstrap over the images of the difference image by image, each image averaged over the seeds; p: the "
    "sign test's over the same images; ±: deviation of the difference over the seeds. There is a verdict only where "
    "interval and test see a difference on ten images or more, and the seeds do not differ by as much. It says nothing "
    "about other data or budgets."
)
NO_CLAIM = "No two rows that the paper puts in order are run here: nothing to check."
SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"}
SPECIAL |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"}
SPECIAL |= {"<": r"\textless{}", ">": r"\textgreater{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "±": r"$\pm$"}
SPECIAL |= {"×": r"$\times$", "−": "$-$", "δ": r"$\delta$", "†": r"\dag{}"}
"""What LaTeX would read as commands, or has no letter for."""


@dataclass(frozen=True)
class Dialect:
    """How a format takes plain text as it is, and how it marks the best value, the second, and what follows a value."""

    escape: Callable[[str], str]
    best: str
    second: str
    rest: str = "{}"

    def cell(self, cell: Any) -> str:
        """`**21.20** ± 0.28 (2 images, 2 seeds)`."""
        mark = {"best": self.best, "second": self.second}.get(cell.mark, "{}")
        after = rest(cell)
        return mark.format(self.escape(cell.text)) + (self.rest.format(self.escape(after)) if after else "")


def latex(text: str) -> str:
    return "".join(SPECIAL.get(letter, letter) for letter in text)


MARKDOWN = Dialect(lambda text: re.sub(r"([*<|])", r"\\\1", text), "**{}**", "<u>{}</u>")
LATEX = Dialect(latex, r"\textbf{{{}}}", r"\underline{{{}}}")
HTML = Dialect(escape, "<strong>{}</strong>", "<u>{}</u>", '<span class="counts">{}</span>')


def rest(cell: Any) -> str:
    """What follows the mean: ` ± 0.12 (3 images, 2 seeds) †`."""
    if not cell.seeds > 0:
        return ""
    spread = "" if pd.isna(cell.sd) else f" ± {cell.sd:.{cell.digits}f}"
    interval = "" if pd.isna(cell.low) else f" [{cell.low:+.{cell.digits}f}, {cell.high:+.{cell.digits}f}]"
    images = [] if pd.isna(cell.images) else [counted(cell.images, "image")]
    return f"{spread}{interval} ({', '.join([*images, counted(cell.seeds, 'seed')])}){' †' * cell.few}"


def scope(table: Table) -> str:
    """How to read the columns of the paper and those measured here."""
    paper = [READING[PAPER]] * (PAPER in set(table.cells.origin))
    apart = [f"budget={table.budget} is not the paper's: the two do not compare."] * (table.budget != "paper")
    return " ".join([*paper, READING[HERE], *(apart if paper else []), GAIN, MARKS])


def grid(table: Table, dialect: Dialect) -> pd.DataFrame:
    """The table as text: a line a row under its label, and columns of (score, heading).

    What the paper has of a score stands beside what was measured of it: `paper: CelebA-HQ wide, FID ↓`, `here`.
    """
    cells = table.cells.assign(text=[dialect.cell(cell) for cell in table.cells.itertuples()])
    both = set(cells.heading[cells.origin == PAPER]) & set(cells.heading[cells.origin == HERE])
    scores = [
        cell.heading if cell.heading in both else COLUMNS[cell.metric].titled for cell in cells.itertuples()
    ]  # fmt: skip
    named = [heading.lower() == score.lower() for heading, score in zip(cells.heading, scores, strict=True)]
    headings = cells.origin.where(named, cells.origin + ": " + cells.heading)
    wide = cells.assign(score=scores, heading=headings).set_index(["row", "score", "heading"])
    wide = wide.text.unstack(["score", "heading"], sort=False)
    wide = wide[[column for score in dict.fromkeys(scores) for column in wide if column[0] == score]]
    wide = wide.rename(columns=dialect.escape).rename_axis(columns=[None, None])
    return wide.set_axis([dialect.escape(label) for label in cells.drop_duplicates("row").label])


def called(name: str) -> str:
    """`Table 7` for table7; another name as it is."""
    return re.sub(r"^(table|figure)(?=\d+$)", lambda kind: f"{kind[0].capitalize()} ", name)


def sentence(ordering: Ordering) -> str:
    """The ordering, by which score and why by this one, and what came out."""
    claim = f"From best to worst the paper has {' > '.join(ordering.rows)}. " if ordering.rows else ""
    by = f"{COLUMNS[ordering.metric].titled} ({ordering.why})"
    return f"{claim}Pairs here, by {by}: {summary(ordering.pairs)}."


def pairs(ordering: Ordering) -> list[list[str]]:
    """The pairs of an ordering as text, the head first; nothing where none was measured."""
    if ordering.pairs.verdict.eq(NOT_MEASURED).all():
        return []
    metric = COLUMNS[ordering.metric]
    lines = [pair_line(pair, metric.titled, metric.digits + 1) for pair in ordering.pairs.itertuples()]
    return [list(lines[0]), *(list(line.values()) for line in lines)]


def pair_line(pair: Any, heading: str, digits: int) -> dict[str, str]:
    """One pair as text, by the heads of the columns."""
    known = pair.verdict != NOT_MEASURED
    sd = "" if pd.isna(pair.sd) else f" ± {pair.sd:.{digits}f}"
    interval, steps = "n/a", ""
    if not pd.isna(pair.low):
        counts = f"{counted(pair.images, 'image')}, {counted(pair.seeds, 'seed')}"
        interval = f"[{pair.low:.{digits}f}, {pair.high:.{digits}f}] ({counts})"
    if not pd.isna(pair.steps):
        equal = pair.steps == pair.worse_steps
        steps = f"{pair.steps:.0f}" if equal else f"unequal: {pair.steps:.0f} and {pair.worse_steps:.0f}"
    return {
        "better in the paper, or expected so": pair.better,
        "worse": pair.worse,
        f"better − worse here, {heading}": f"{pair.value:+.{digits}f}{sd}" if known else "n/a",
        "95 % interval": interval,
        "sign test, p": "" if pd.isna(pair.p) else f"{pair.p:.2g}",
        "steps of the networks": steps,
        "the order here": pair.verdict,
    }


def origins(provenance: Mapping[str, Sequence[str]], seconds: Mapping[str, float]) -> dict[str, str]:
    """Where the measured numbers come from, in words."""
    texts = {what: (" to " if what == "date" else "; ").join(values) for what, values in provenance.items()}
    compute = f"{duration(sum(seconds.values()))} of training in {counted(len(seconds), 'run')}"
    return {what: text or "nothing measured yet" for what, text in texts.items()} | {"compute": compute}


def to_markdown(table: Table, pictures: Sequence[str] = ()) -> str:
    """The whole page. `pictures` are files beside it that are shown first."""
    wide = grid(table, MARKDOWN).reset_index()
    heads = [heading if ": " in heading else f"{heading}: {score}" for score, heading in wide.columns[1:]]
    rows = [["", *heads], *wide.to_numpy().tolist()]
    given = {"pictures": pictures, "grid": markdown(rows), "markdown": markdown}
    return template("table.md.j2", MARKDOWN).render(words(table), **given)


def to_latex(table: Table) -> str:
    """A `table` environment for a document with \\usepackage{booktabs}; what stands below it included."""
    wide = grid(table, LATEX)
    tabular = wide.to_latex(escape=False, multicolumn_format="c", column_format="l" + "r" * wide.shape[1])
    widths = wide.columns.get_level_values(0).value_counts(sort=False)
    rules = (
        f"\\cmidrule(lr){{{last - width + 2}-{last + 1}}}" for width, last in zip(widths, widths.cumsum(), strict=True)
    )
    tabular = tabular.replace("\\\\\n", "\\\\\n" + "".join(rules) + "\n", 1)  # below the scores
    return template("table.tex.j2", LATEX).render(words(table), tabular=tabular)


def to_csv(table: Table) -> str:
    """A line for each cell that is not empty, numbers in full."""
    cells = table.cells[table.cells.text != ""].astype({"images": "Int64", "seeds": "Int64"}).drop(columns="digits")
    cells.insert(0, "table", table.name)
    cells.insert(1, "budget", table.budget)
    text: str = cells.to_csv(index=False)
    return text


def words(table: Table) -> dict[str, Any]:
    """What all templates need."""
    return {
        "table": table,
        "title": f"{called(table.name)}: {table.title}",
        "scope": scope(table),
        "orderings": [(sentence(each), pairs(each)) for each in table.orderings],
        "intervals": INTERVALS if table.orderings else NO_CLAIM,
        "origins": origins(table.provenance, table.seconds),
    }


def template(name: str, dialect: Dialect) -> Template:
    """A template of this folder. In LaTeX, which has braces of its own, a value stands in << >> and a rule in <% %>."""
    marks = ("<%", "%>", "<<", ">>", "<#", "#>") if name.endswith(".tex.j2") else ("{%", "%}", "{{", "}}", "{#", "#}")
    environment = Environment(
        *marks,
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = dialect.escape
    return environment.get_template(name)


def write(table: Table, experiment: Experiment, folder: Path) -> list[Path]:
    """Writes the table into `folder`. Returns the files, the page first."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = inside(folder, table.name)
    pictures = figures.save(figures.draw(experiment, table), stem) if experiment.x else []
    texts = {
        "md": to_markdown(table, [file.name for file in pictures if file.suffix == ".svg"]),
        "csv": to_csv(table),
        "tex": to_latex(table),
    }
    files = []
    for kind, text in texts.items():
        files.append(inside(folder, f"{table.name}.{kind}"))
        with whole(files[-1]) as temporary:
            temporary.write_text(text, encoding="utf-8")
    write_json(inside(folder, f"{table.name}.json"), table.to_json())
    return [*files, folder / f"{table.name}.json", *pictures]
