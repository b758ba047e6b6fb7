"""The study of the prior, run: `make study-prior`.

    python experiments/prior.py photos=<BSDS500> camvid=<CamVid> sevenscenes=<7-Scenes> [only=[tone,sisr/v3]] [seeds=3]
      [jobs=2] [budget=demo] [results=<folder>] [key=value ...]

prior.yaml is the design. `photos` has the folders train and val; a setting whose data is not given is left out. `only`
names settings, or a row of one; `seeds` is how many in place of the design's, or a list, seeds=[5,6]; further words are
overrides of every training. The main rows come first, seed by seed. It may be stopped and called again.

What is finished is kept in experiments/results/<budget>, listed in prior/records.json, which prior_report.py reads.
`results` is another place to keep it: experiments/results/rerun is that of rows repeated with other arithmetic, and
experiments/results/fresh that of rows with other seeds and images.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from collect import RESULTS, keep
from omegaconf import OmegaConf

from diffi2i.errors import UserError
from diffi2i.files import whole
from diffi2i.run.ensure import ensure
from diffi2i.run.plan import RUNS, Run, lineage, planned, value_of
from diffi2i.run.record import Record
from diffi2i.run.state import read

HERE = Path(__file__).resolve().parent
DATA: Mapping[str, Sequence[str]] = {
    "photos": ("dataset=folder", "root={}/train", "dataset.source.val_root={}/val"),
    "camvid": ("dataset=camvid", "root={}"),
    "sevenscenes": ("dataset=sevenscenes", "root={}"),
}
OWN_KEYS = (*DATA, "only", "seeds", "jobs", "budget", "results")
# Validated once, at the end: the last weights are scored in any case.
FIXED = ("logger=none", "train.epoch_steps=${train.steps}")

Cell = tuple[int, str, str]
"""A seed, a setting and a row."""


@dataclass(frozen=True)
class Setting:
    """A task with its data and the overrides of its `fresh` and of its `continued` trainings; see prior.yaml."""

    label: str
    data: str
    metric: str
    words: list[Any]
    fresh: list[str]
    continued: list[str]


@dataclass(frozen=True)
class Row:
    label: str
    words: list[str]
    init: str | None = None


@dataclass(frozen=True)
class Design:
    """What is run: the `main` rows in all settings, further groups of rows `within` some, each with so many `seeds`."""

    settings: dict[str, Setting]
    groups: dict[str, dict[str, Row]]
    seeds: dict[str, int]
    within: dict[str, list[str]]

    @property
    def rows(self) -> dict[str, Row]:
        return {name: row for rows in self.groups.values() for name, row in rows.items()}

    def cells(self, seeds: Sequence[int] | None = None) -> Iterator[Cell]:
        """In the order in which they are run; `seeds`: others than the design's."""
        for group, rows in self.groups.items():
            for seed in range(self.seeds[group]) if seeds is None else seeds:
                for setting in self.within.get(group, self.settings):
                    yield from ((seed, setting, row) for row in rows)


@cache
def design() -> Design:
    plain: Any = OmegaConf.to_container(OmegaConf.load(HERE / "prior.yaml"))
    settings = {name: Setting(**each) for name, each in plain.pop("settings").items()}
    seeds, within = plain.pop("seeds"), plain.pop("within")
    groups = {group: {name: Row(**each) for name, each in plain[group].items()} for group in seeds}
    return Design(settings, groups, seeds, within)


def flat(words: Sequence[Any]) -> list[str]:
    """Without the lists that YAML's references leave inside."""
    return [text for word in words for text in ([word] if isinstance(word, str) else flat(word))]


def run_of(setting: str, row: str, seed: int, given: Sequence[str]) -> Run:
    """The training of a row, after those that it starts from. `given`: the overrides of the data, and further ones."""
    where, what = design().settings[setting], design().rows[row]
    words = [*flat(where.words), *(where.continued if what.init else where.fresh), *FIXED, *what.words]
    words += [*given, f"seed={seed}"]
    if what.init is None:
        return planned(words)
    before = run_of(setting, what.init, seed, given)
    return replace(planned([*words, f"method.init={before.directory}"]), before=before)


def data_of(words: Sequence[str]) -> dict[str, list[str]]:
    """The overrides of each data set that is given. Raises `UserError` where that is none, or no folder."""
    roots = {name: root for name in DATA if (root := value_of(name, words))}
    if not roots:
        raise UserError(f"write one of {', '.join(f'{name}=<folder>' for name in DATA)}, whose settings are then run")
    if missing := [name for name, root in roots.items() if not Path(root).is_dir()]:
        raise UserError(f"{missing[0]}={roots[missing[0]]} is no folder")
    return {name: [text.format(root) for text in DATA[name]] for name, root in roots.items()}


def seeds_of(text: str) -> Sequence[int]:
    """`3` is the first three, `[5,6]` are these. Raises `UserError`: neither."""
    if text.isdecimal() and int(text):
        return range(int(text))
    numbers = text[1:-1].split(",")
    if text != f"[{','.join(numbers)}]" or not all(number.isdecimal() for number in numbers):
        raise UserError(f"seeds={text}: write a number above 0, or a list, [5,6]")
    return [*map(int, numbers)]


def chosen(only: str | None, seeds: str | None) -> list[Cell]:
    """The cells to run. Raises `UserError` for a name that is no setting and no row of one, and for no seeds."""
    every = list(design().cells(seeds_of(seeds) if seeds else None))
    names = only.strip("[]").split(",") if only else list(design().settings)
    known = {name for _, setting, row in every for name in (setting, f"{setting}/{row}")}
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"only={unknown[0]}: write a setting, {', '.join(design().settings)}, or <setting>/<row>")
    return [cell for cell in every if {cell[1], f"{cell[1]}/{cell[2]}"} & {*names}]


@dataclass(frozen=True)
class Request:
    """What the words of the command ask for."""

    budget: str
    results: Path
    jobs: int
    runs: dict[Cell, Run]


def asked(words: Sequence[str]) -> Request:
    """Raises `UserError`: no data, an unknown name, a file for a folder, or an override that cannot be."""
    budget, jobs = value_of("budget", words) or "demo", value_of("jobs", words) or "1"
    if not jobs.isdecimal() or not int(jobs):
        raise UserError(f"jobs={jobs}: write a number above 0")
    results = Path(value_of("results", words) or RESULTS)
    if results.exists() and not results.is_dir():
        raise UserError(f"results={results} is no folder")
    extra = [f"budget={budget}", *(word for word in words if word.partition("=")[0] not in OWN_KEYS)]
    data = data_of(words)
    runs = {
        (seed, setting, row): run_of(setting, row, seed, [*data[design().settings[setting].data], *extra])
        for seed, setting, row in chosen(value_of("only", words), value_of("seeds", words))
        if design().settings[setting].data in data
    }
    return Request(budget, results, int(jobs), runs)


def kept_as(run: Run) -> str:
    """Where its record lies among those of this repository."""
    return (run.directory.relative_to(RUNS) / "result.json").as_posix()


def listed(file: Path) -> dict[Cell, dict[str, Any]]:
    """The lines of a list; none where there is no such list."""
    lines = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return {(line["seed"], line["setting"], line["row"]): line for line in lines}


def merged(file: Path, found: Mapping[Cell, Mapping[str, Any]]) -> None:
    """Writes a line a cell, in the design's order, beside the lines that the file has of other cells."""
    lines = listed(file)
    lines |= {cell: {"setting": cell[1], "row": cell[2], "seed": cell[0], **facts} for cell, facts in found.items()}
    order = {cell: number for number, cell in enumerate(design().cells())}
    kept = [json.dumps(lines[cell]) for cell in sorted(lines, key=lambda cell: order.get(cell, len(order)))]
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file) as temporary:
        temporary.write_text("[\n" + ",\n".join(kept) + "\n]\n", encoding="utf-8")
    print(f"{file.name}: {len(kept)} lines")


def main() -> None:
    request = asked(sys.argv[1:])
    try:
        ensure(dict.fromkeys(chain.from_iterable(map(lineage, request.runs.values()))), request.jobs)
    finally:
        done = {cell: run for cell, run in request.runs.items() if isinstance(read(run), Record)}
        for run in done.values():
            keep(run, request.results)
        files = {cell: {"file": kept_as(run)} for cell, run in done.items()}
        merged(request.results / request.budget / "prior" / "records.json", files)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
