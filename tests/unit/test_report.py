"""The report: valid HTML that asks for nothing from outside, with all that there is and what there is not."""

import base64
import io
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from diffi2i import cli
from diffi2i.run.state import Entry, Failure
from diffi2i.tables import experiment as experiments
from diffi2i.tables.experiment import Experiment
from diffi2i.tables.frame import Found, Key
from diffi2i.tables.table import table_of
from diffi2i.tables.write import write
from tests.refusals import command_refusal
from tests.table_records import entries, record

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would find: fails where tags do not balance, keeps text, ids and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.sections: dict[str, str] = {}
        self.section = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = dict(attrs)["id"] or ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                self.addresses.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.sections[self.section] = self.sections.get(self.section, "") + data


def save(experiment: Experiment, found: dict[Key, Entry], folder: Path, panels: Sequence[tuple[str, str]] = ()) -> None:
    """What `diffi2i table` leaves for the report."""
    write(table_of(experiment, Found(found), "demo", {"shared": record([1.0])}, panels), experiment, folder)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables 7 and 8, which share a run, and Figures 1 and 6."""
    place = tmp_path_factory.mktemp("made") / "outputs"
    tables, run = place / "tables" / "demo", place / "runs" / "demo" / "v3"
    run.mkdir(parents=True)
    Image.new("RGB", (2000, 1000), "red").save(run / "panel.png")
    panels = [("V3, seed 0", "../../runs/demo/v3/panel.png")]
    table7, table8, figure1, figure6 = map(experiments.load, ("table7", "table8", "figure1", "figure6"))
    v3 = record([20.0, 22.0], gain=0.01)
    none = record([21.0, 22.0], gain=None)
    v4 = record([20.0, 22.0], gain=0.01, steps=500)
    v1 = Failure("<script>alert('&')</script>")
    save(table7, entries(v3=[v3], v4=[v4], v1=[v1], **{"none-on": [none]}), tables, panels)
    save(table8, entries(l1=[v3]), tables, [*panels, ("L_2, seed 0", "gone.png")])
    save(figure1, entries(inpainting=[v3]), tables)
    save(figure6, entries(t2=[v3], t3=[v3]), tables)
    return place


@pytest.fixture
def folder(outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tables of the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(outputs, "outputs")
    return Path("outputs/tables/demo")


def test_the_report_is_one_valid_page_without_requests(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["report"])
    file = Path("outputs/report.html")
    assert f"wrote {file}" in capsys.readouterr().out
    text = file.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    for address in page.addresses:
        assert address.startswith("data:image/jpeg;base64,") or address.removeprefix("#") in page.ids
    # Styles and drawings can ask for files too.
    assert all(target.removeprefix("#") in page.ids for target in re.findall(r"url\((.*?)\)", text))
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    assert "@import" not in text
    assert page.tags.count("svg") == 2
    assert page.tags.count("img") == 1


def test_the_report_holds_what_there_is_and_what_there_is_not(folder: Path) -> None:
    (folder / "table9.json").write_text('{"cells": []}')
    cli.main(["report", "budget=demo", "output=there/all.html"])
    page = Page(Path("there/all.html").read_text(encoding="utf-8"))
    head = " ".join(page.sections[""].split())
    assert "budget=demo" in head
    assert "0123456789+" in head
    assert "x86_64 CPU" in head
    # One run, of which all four tables are made.
    assert "1 min 40 s of training in 1 run" in head
    sections = {name: " ".join(text.split()) for name, text in page.sections.items() if name}
    assert list(sections) == ["table7", "table8", "figure1", "figure6", "missing"]
    assert "failed: <script>alert('&')</script>" in sections["table7"]
    assert (
        "Warning. Here another image's prior costs less than 0.05 dB (1 % of a score that is not in dB) in any row."
        in sections["table7"]
    )
    assert "21.00 (2 images, 1 seed)" in sections["table7"]
    assert "the same run as in Table 7, pictures there" in sections["table8"]
    assert "no picture in " in sections["table8"]
    assert "undecided (fewer than 10 images)" in sections["figure6"]
    # V3 beside its control, which has the steps of both.
    assert "prior worth" in sections["table7"]
    assert "-0.50 [-1.00, +0.00] (2 images, 1 seed)" in sections["table7"]
    assert "unequal: 300 and 500" in sections["table7"]
    assert (
        "Table 1: Inpainting on Places and CelebA-HQ, not made yet: diffi2i table table1 budget=demo makes it."
        in (sections["missing"])
    )
    assert (
        "Table 9, outputs/tables/demo/table9.json is damaged: diffi2i table table9 budget=demo makes it."
        in (sections["missing"])
    )
    assert sections["missing"].count("diffi2i table") == 9


def test_pictures_are_made_small(folder: Path) -> None:
    cli.main(["report"])
    (data,) = re.findall(r"base64,([^\"]+)", Path("outputs/report.html").read_text())
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (960, 480)


def test_a_table_of_the_user_comes_last(folder: Path) -> None:
    mine = replace(experiments.load("table8"), name="my_ablation")
    save(mine, entries(l1=[record([20.0])]), folder)
    cli.main(["report"])
    page = Page(Path("outputs/report.html").read_text())
    assert list(page.sections)[-2:] == ["my_ablation", "missing"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["budget=reduced"], "outputs/tables/reduced holds no table: diffi2i table all budget=reduced makes them"),
        (["demo"], "cannot read 'demo': write key=value"),
        (["output=report.pdf"], "ends in .html"),
        (["output=file/report.html"], "cannot be written"),
    ],
)
def test_what_cannot_be_reported_is_said_in_one_line(
    folder: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    assert words in command_refusal(["report", *arguments], capsys)
