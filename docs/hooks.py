"""What `mkdocs build` adds to docs/: pages of what stands elsewhere in the checkout, tables of it, links that reach it.

README.md is the front page, each section of CONTRIBUTING.md is a page, and so are CHANGELOG.md, the notebook and the
tables of experiments/results. A link that is right where its file lies is right in the site too: it leads to the file's
page, and is plain text where the file is no page.
"""

import html
import json
import posixpath
import re
from collections.abc import Iterator
from itertools import groupby, takewhile
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from diffi2i.run.rows import experiments_dir, table_names
from diffi2i.tables.experiment import load

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[([^][]*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")
EXPERIMENTS = "<!-- a section for each table and figure -->"
BUDGETS = re.compile(r"<!-- budgets of (\w+) -->")

origins: dict[str, str] = {}
"""Of each page that stands elsewhere its file, from the checkout's root."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that stand elsewhere."""
    for uri, origin, text in elsewhere():
        origins[uri] = origin
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Fills in tables and turns links."""
    if EXPERIMENTS in markdown:
        markdown = markdown.replace(EXPERIMENTS, "\n\n".join(map(experiment, table_names())))
    return linked(BUDGETS.sub(lambda match: budgets(match[1]), markdown), page.file.src_uri)


def elsewhere() -> Iterator[tuple[str, str, str]]:
    """Each such page's place in the site, its file, its text; of a file's several pages first the one to be led to."""
    yield "index.md", "README.md", read("README.md")
    yield "changelog.md", "CHANGELOG.md", read("CHANGELOG.md")
    start, *parts = re.split(r"^## (.+)\n", read("CONTRIBUTING.md"), flags=re.M)
    pages = {title: f"{title.lower().replace(' ', '-')}.md" for title in parts[::2]}
    contents = "\n".join(f"* [{title}]({page})" for title, page in pages.items())
    yield "how-to/index.md", "CONTRIBUTING.md", f"{start}{contents}\n"
    for (title, page), section in zip(pages.items(), parts[1::2], strict=True):
        yield f"how-to/{page}", "CONTRIBUTING.md", f"# {title}\n{section}"
    notebook = "docs/first-steps.ipynb"
    yield "first-steps.md", notebook, "\n\n".join(map(cell, json.loads(read(notebook))["cells"]))
    for file in sorted(ROOT.glob("experiments/results/demo/*.md")):
        yield f"results/{file.name}", str(file.relative_to(ROOT)), file.read_text(encoding="utf-8")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def cell(node: dict[str, Any]) -> str:
    """A cell of a notebook."""
    text = "".join(node["source"])
    return text if node["cell_type"] == "markdown" else f"```python\n{text}\n```"


def linked(markdown: str, uri: str) -> str:
    """The text of a page with its links turned from the checkout's files to the site's pages."""
    origin, here = origins.get(uri, f"docs/{uri}"), posixpath.dirname(uri)
    pages = {file: page for page, file in reversed(origins.items())}
    parts = {f"{file}#{posixpath.basename(page)[:-3]}": page for page, file in origins.items()}

    def turned(match: re.Match[str]) -> str:
        picture, text, target, anchor = match.groups(default="")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
        if file == origin or not (ROOT / file).exists():
            return match[0]  # within a file of several pages, or wrong, which mkdocs says
        if file not in pages and not file.startswith("docs/"):
            return text
        page = parts.get(file + anchor) or pages.get(file, file[5:]) + anchor
        return f"{picture}[{text}]({posixpath.relpath(page, here or '.')})"

    return LINK.sub(turned, markdown)


def budgets(task: str) -> str:
    """What each of a task's budgets trains."""
    common, plain = (yaml.safe_load(read(f"conf/{name}.yaml")) for name in ("common", f"task/{task}"))
    groups = [group for group in [*common["defaults"], *plain.get("defaults", [])] if isinstance(group, dict)]
    (*_, model) = [choice for group in groups for name, choice in group.items() if "model" in name]
    head = ("`budget=`", "model", "batch", "crop", "stage 1", "stage 2", "with a discriminator")
    lines = [head, ["---"] * len(head)]
    for name, budget in plain["budgets"].items():
        last = budget.get("phases", [budget])[-1]
        grows = [f"{budget[key]}" if last is budget else f"{budget[key]} to {last[key]}" for key in ("batch", "patch")]
        roles = [budget.get(role) for role in ("fresh", "continued", "adversarial")]
        steps = [f"{role['steps']:,} steps, `{role['loss']}`" if role else "" for role in roles]
        lines.append([f"`{name}`", budget.get("model", model), *grows, *steps])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def experiment(name: str) -> str:
    """What the head of a table's file says, its rows, its test sets, and where its kept results are."""
    found = load(name)
    run, printed = [row.name for row in found.rows if row.run], [row.label for row in found.rows if not row.run]
    facts = {
        "Rows that are run": run,
        "Rows that authors' weights can fill": list(found.imports),
        "Rows of the paper's values alone": printed,
        "Test sets": list(dict.fromkeys(column.dataset for column in found.columns if column.dataset)),
        "Kept": [f"[results at budget={kept.parent.name}](../{kept.relative_to(ROOT)})"
                 for kept in sorted(ROOT.glob(f"experiments/results/*/{name}.md"))],
    }  # fmt: skip
    lines = [f"* {what}: {', '.join(names)}" for what, names in facts.items() if names]
    title = re.sub(r"^(table|figure)(\d+)$", lambda match: f"{match[1].title()} {match[2]}", name)
    text = head((experiments_dir() / name / "table.yaml").read_text(encoding="utf-8"))
    return "\n\n".join([f"## {title}: {found.title} {{#{name}}}", text, "\n".join(lines)])


def head(text: str) -> str:
    """The comment that a YAML file begins with: its lines, and as code those that are set in."""
    lines = [line[2:] for line in takewhile(lambda line: line.startswith("#"), text.splitlines())]
    parts = [(code, "\n".join(group)) for code, group in groupby(lines, lambda line: line.startswith("  "))]
    return "\n\n".join(indent(dedent(part), "    ") if code else html.escape(part) for code, part in parts)
