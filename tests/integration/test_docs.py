"""The site builds without a warning and asks for nothing from elsewhere; the notebook runs from top to bottom."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from diffi2i.run.record import Record
from diffi2i.run.rows import table_names
from tests.places import ROOT

pytestmark = pytest.mark.slow

LOADED = re.compile(r"""<(?:script|img|iframe)[^>]*\ssrc="?(?:https?:)?//|<link[^>]*\shref="?(?:https?:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the group docs is not installed")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # where snippets are looked for
        config = load_config("mkdocs.yml", strict=True, site_dir=str(folder))
        config.plugins.run_event("startup", command="build", dirty=False)
        build(config)  # Abort, which is a SystemExit, where there has been a warning
    return folder


def test_what_stands_elsewhere_has_its_pages(site: Path) -> None:
    def page(name: str) -> str:
        return (site / f"{name}.html").read_text(encoding="utf-8")

    assert "make demo" in page("index")
    assert "unsharp.py" in page("how-to/add-a-method")
    assert "diffi2i.load" in page("first-steps")
    for table in table_names():
        assert f'id="{table}"' in page("reproduce"), table
    assert "1,000,000 steps" in page("tasks/inpainting")
    assert "conf/method/ldm.yaml" not in re.findall(r'href="([^"]*)"', page("methods/ldm"))


def test_nothing_is_asked_for_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for file in pages:
        assert not LOADED.search(file.read_text(encoding="utf-8")), file


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As Jupyter would run it, but for its pictures."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in json.loads((ROOT / "docs" / "first-steps.ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["restored"].size == (600, 400)
    assert {Record.read(tmp_path / "runs" / run).budget for run in ("s1", "s2", "v1")} == {"smoke"}
    printed = capsys.readouterr().out
    assert "stage 2, no diffusion" in printed
    assert "two-sided sign test" in printed
