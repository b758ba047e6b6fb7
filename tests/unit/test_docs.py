"""The pages: each task and method has one, links lead somewhere, and the messages they show are those of the code."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.places import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)\s#]+)")


def in_nav(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        found = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from [found] if isinstance(found, str) else in_nav(found)


@pytest.mark.parametrize("kind", ["task", "method"])
def test_each_task_and_method_has_its_page(kind: str) -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    shown = {page for page in in_nav(config["nav"]) if page.startswith(f"{kind}s/")}
    assert shown == {f"{kind}s/{file.stem}.md" for file in (ROOT / "conf" / kind).glob("*.yaml")}
    for page in shown:
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        assert f'--8<-- "conf/{page.replace("s/", "/", 1).removesuffix(".md")}.yaml"' in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    """As GitHub follows them; what the site makes of them its build checks."""
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_notebook_is_kept_without_what_it_prints() -> None:
    notebook = json.loads((ROOT / "docs" / "first-steps.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def texts() -> Iterator[list[str | None]]:
    """The texts of the code, each in the pieces that stand between its values, for which there is None."""
    for file in (ROOT / "src").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        within = {part for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in nodes:
            parts = node.values if isinstance(node, ast.JoinedStr) else [] if node in within else [node]
            yield [str(part.value) if isinstance(part, ast.Constant) else None for part in parts]


def test_the_messages_of_troubleshooting_are_those_of_the_code() -> None:
    """Half of each line, which leaves room for names and numbers, is said by texts that the line has all pieces of."""
    said = [pieces for pieces in texts() if max((len(piece) for piece in pieces if piece), default=0) >= 12]
    shown = re.findall(r"^ {4}diffi2i: (.+)$", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.M)
    assert len(shown) > 30
    for line in shown:
        letters = set[int]()
        for pieces in said:
            if all(piece in line for piece in pieces if piece):
                pattern = "".join(".*?" if piece is None else f"({re.escape(piece)})" for piece in pieces)
                match = re.search(pattern, line)
                for group in range(1, match.re.groups + 1) if match else ():
                    letters |= set(range(*match.span(group)))  # type: ignore[union-attr]
        assert len(letters) > len(line) / 2, line
