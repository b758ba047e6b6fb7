"""All tables, figures and pictures of a scale as one HTML file that needs nothing beside it."""

import base64
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from diffi2i.tables import experiment, formats
from diffi2i.tables.remarks import merged
from diffi2i.tables.table import Table, called, title

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
    state: str = ""
    figure: Markup | None = None
    panels: list[Panel] = field(default_factory=list)


def page(sections: Sequence[Section], scale: str) -> str:
    """The HTML. All text is escaped; figures are SVG made by ourselves."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tables = [section.table for section in sections if section.table]
    return environment.get_template("report.html.j2").render(
        scale=scale,
        sections=sections,
        provenance=formats.provenance_text(*merged(tables)),
        number=formats.number,
        rest=formats.rest,
        scope=formats.scope,
        group_heading=formats.group_heading,
        ordering_rows=formats.ordering_rows,
        ordering_text=formats.ordering_text,
        provenance_text=formats.provenance_text,
        intervals=formats.INTERVALS,
        no_claim=formats.NO_CLAIM,
    )


def sections_of(folder: Path, scale: str) -> list[Section]:
    """The paper's tables and figures in its order, then those of the user."""
    known = experiment.names()
    others = sorted(file.stem for file in folder.glob("*.json") if file.stem not in known)
    shown: dict[Path, str] = {}
    return [section(folder, name, scale, shown) for name in [*known, *others]]


def section(folder: Path, name: str, scale: str, shown: dict[Path, str]) -> Section:
    """One table. `shown` collects where each picture stands, since tables share runs."""
    file, command = folder / f"{name}.json", f"diffi2i table {name} scale={scale}"
    if not file.is_file():
        return Section(name, f"{called(name)}: {experiment.load(name).title}", command, state="not made yet")
    try:
        table = formats.restored(json.loads(file.read_text(encoding="utf-8"))["table"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Section(name, called(name), command, state=f"{file} is damaged")
    picture = folder / f"{name}.svg"
    figure = inline(picture.read_text(encoding="utf-8"), name, table.title) if picture.is_file() else None
    panels = [panel(label, folder / path, called(name), shown) for label, path in table.panels]
    return Section(name, title(table), command, table, "", figure, panels)


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
        with Image.open(file) as image:
            small = image.convert("RGB")
    except OSError:
        return Panel(label, words=f"no picture in {file}")
    shown[place] = where
    small.thumbnail(PICTURE)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=85)
    return Panel(label, data=f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}")
