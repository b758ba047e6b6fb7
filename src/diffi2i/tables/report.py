"""All tables, figures and pictures of a budget as one HTML file that needs nothing beside it."""

import base64
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from diffi2i.data.images import read_rgb
from diffi2i.errors import UserError
from diffi2i.tables import experiment
from diffi2i.tables.remarks import merged
from diffi2i.tables.table import Table
from diffi2i.tables.write import HTML, called, grid, origins, template, words

# The largest picture in the report, in pixels: four of 240 beside each other.
PICTURE = (960, 1600)


@dataclass
class Panel:
    """A picture as a data: URI, or words in its place."""

    label: str
    data: str = ""
    words: str = ""


@dataclass
class Section:
    """A table, or why there is none (`state`), and the command that makes it."""

    name: str
    title: str
    command: str
    table: Table | None = None
    state: str = "not made yet"
    figure: Markup | None = None
    panels: list[Panel] = field(default_factory=list)


def page(sections: Sequence[Section], budget: str) -> str:
    """The HTML. All text is escaped; figures are SVG made by ourselves."""
    tables = [section.table for section in sections if section.table]
    # A run that several tables share counts once.
    seconds = {run: time for table in tables for run, time in table.seconds.items()}
    return template("report.html.j2", HTML).render(
        budget=budget,
        sections=sections,
        origins=origins(merged([table.provenance for table in tables]), seconds) if tables else {},
        grid=lambda table: Markup(grid(table, HTML).to_html(escape=False, border=0)),
        words=words,
    )


def sections_of(folder: Path, budget: str) -> list[Section]:
    """The paper's tables and figures in its order, then those of the user."""
    known = experiment.names_of_paper()
    others = sorted(file.stem for file in folder.glob("*.json") if file.stem not in known)
    shown: dict[Path, str] = {}
    return [section(folder, name, budget, shown) for name in [*known, *others]]


def section(folder: Path, name: str, budget: str, shown: dict[Path, str]) -> Section:
    """One table. `shown` collects where each picture stands, since tables share runs."""
    file, command = folder / f"{name}.json", f"diffi2i table {name} budget={budget}"
    if not file.is_file():
        return Section(name, f"{called(name)}: {experiment.load(name).title}", command)
    try:
        table = Table.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return Section(name, called(name), command, state=f"{file} is damaged")
    picture = folder / f"{name}.svg"
    figure = inline(picture.read_text(encoding="utf-8"), name, table.title) if picture.is_file() else None
    panels = [panel(label, folder / path, called(name), shown) for label, path in table.panels]
    return Section(name, f"{called(name)}: {table.title}", command, table, "", figure, panels)


def inline(svg: str, name: str, label: str) -> Markup:
    """An SVG file as an element of the page, its ids made unique there and told to screen readers by `label`."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    return Markup(svg.replace("<svg", Markup('<svg role="img" aria-label="{}"').format(label), 1))


def panel(label: str, file: Path, where: str, shown: dict[Path, str]) -> Panel:
    """A picture, made small enough to travel; where an earlier table has shown it, a word to say so."""
    place = file.resolve()
    if place in shown:
        return Panel(label, words=f"the same run as in {shown[place]}, pictures there")
    try:
        small = Image.fromarray(read_rgb(file))
    except UserError:
        return Panel(label, words=f"no picture in {file}")
    shown[place] = where
    small.thumbnail(PICTURE)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=85)
    return Panel(label, data=f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}")
