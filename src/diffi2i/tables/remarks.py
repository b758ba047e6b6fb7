"""What is said around a table: warnings, notes, where its numbers come from."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from diffi2i.metrics.spec import FEW_IMAGES
from diffi2i.tables.execute import duration
from diffi2i.tables.experiment import ALL_TASKS, Experiment
from diffi2i.tables.records import Failure, Filled, Record
from diffi2i.tables.table import Head, Line, Table
from diffi2i.tables.values import records_of, value_of

WITHOUT_CONTROL = "there is no record of the same network without a prior under the same seed, of the same images"


def prior_warnings(experiment: Experiment, filled: Filled) -> list[str]:
    """A warning where networks do not depend on their prior. That they do does not say that it is worth anything."""
    use: dict[str, bool] = {}
    for row in experiment.rows:
        gains = [
            float(record["metrics"]["prior_dependence"]) / least_gain(record)
            for record in records_of(filled, row.name, "").values()
            if record["metrics"].get("prior_dependence") is not None
        ]
        if gains:
            use[row.label] = abs(fmean(gains)) >= 1
    without = [label for label, used in use.items() if not used]
    if not without:
        return []
    which = "any row" if len(without) == len(use) else ", ".join(without)
    return [
        f"Here another image's prior costs less than 0.05 dB (1 % of a score that is not in dB) in {which}. What such "
        "rows say about the prior means nothing."
    ]


def least_gain(record: Record) -> float:
    """The prior dependence below which the prior counts as unused: about 1 % of the error in any unit."""
    main = record["main_metric"]
    return 0.05 if main.startswith("psnr") else 0.01 * abs(float(record["metrics"][main] or 1.0)) or 0.01


def paper_notes(experiment: Experiment) -> list[str]:
    """The experiment's own notes; rows that share one are named together."""
    by_note: dict[str, list[str]] = {}
    for row in experiment.rows:
        if row.note:
            by_note.setdefault(row.note, []).append(row.label)
    rows = [f"{'; '.join(labels)}: {note}." for note, labels in by_note.items()]
    return [*([experiment.note.strip()] if experiment.note else []), *rows]


def state_notes(experiment: Experiment, filled: Filled, scale: str) -> list[str]:
    """Which cells have no record, and why; in full, since cells shorten their reasons."""
    notes: dict[str, dict[str, list[str]]] = {}
    labels = {row.name: row.label for row in experiment.rows}
    entries = [*filled.own.items(), *((key[:2], state) for key, state in filled.columns.items())]
    for (row, seed), state in entries:
        if isinstance(state, dict):
            continue
        what = f"n/a: not run yet; diffi2i table {experiment.name} scale={scale} runs what is missing"
        if isinstance(state, Failure):
            what = f"{state.word}: {state.reason}"
        seeds = notes.setdefault(what, {}).setdefault(labels[row], [])
        if str(seed) not in seeds:  # of several test sets
            seeds.append(str(seed))
    return [
        "; ".join(f"{label}, seed {', '.join(seeds)}" for label, seeds in rows.items()) + f": {what}."
        for what, rows in notes.items()
    ]


def value_notes(experiment: Experiment, heads: Sequence[Head], lines: Sequence[Line], filled: Filled) -> list[str]:
    """Why scores are n/a, and how to read some of those that there are."""
    notes = []
    for index, head in enumerate(heads):
        cells = [line.cells[index] for line in lines]
        if head.group == "here" and any(cell.word == "n/a" for cell in cells):
            notes += [f"{head.heading} is n/a: {reason}." for reason in reasons(experiment, head, filled)]
        if any(cell.few for cell in cells):
            notes.append(
                f"† {head.heading} of fewer than {FEW_IMAGES} images is biased: compare only within its column."
            )
    sizes = distinct(" × ".join(map(str, record.get("measured_at", []))) for record in filled_records(filled))
    if any(head.metric == "seconds_per_image" for head in heads) and sizes:
        notes.append(f"Times here are those of one image of {', '.join(sizes)}, on the hardware named below.")
    return notes


def reasons(experiment: Experiment, head: Head, filled: Filled) -> list[str]:
    """Why records have no such score, each reason once."""
    if head.metric == "prior_worth":
        return [WITHOUT_CONTROL] * any(row.control and records_of(filled, row.name, "") for row in experiment.rows)
    found = []
    for row in experiment.rows:
        for record in records_of(filled, row.name, head.dataset).values():
            other_task = experiment.task == ALL_TASKS and head.metric not in record["metrics"]
            if value_of(record, head.metric) is None and not other_task:
                reason = record.get("reasons", {}).get(head.metric, "it is not among the scores of these runs")
                found.append(str(reason).rstrip("."))
    return distinct(found)


def provenance(filled: Filled, trainings: Mapping[str, Record], scale: str) -> dict[str, list[str]]:
    """Each distinct value in the records, stage 1 included."""
    records = [*trainings.values(), *filled_records(filled)]
    dates = sorted(str(record["date"])[:10] for record in records if "date" in record)
    return {
        "scale": [scale],
        "dataset": distinct(dataset_text(record["dataset"]) for record in records),
        "commit": distinct(commit_text(record.get("commit")) for record in records),
        "hardware": distinct(hardware_text(record.get("hardware", {})) for record in records),
        "date": distinct([*dates[:1], *dates[-1:]]),
        "packages": distinct(
            ", ".join(f"{package} {version}" for package, version in record.get("versions", {}).items())
            for record in records
        ),
    }


def filled_records(filled: Filled) -> list[Record]:
    """The records of all cells."""
    return [entry for entry in (*filled.own.values(), *filled.columns.values()) if isinstance(entry, dict)]


def merged(tables: Sequence[Table]) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Provenance and compute of several tables; a run that they share counts once."""
    found: dict[str, list[str]] = {}
    for what in dict.fromkeys(what for table in tables for what in table.provenance):
        found[what] = distinct(text for table in tables for text in table.provenance[what])
    if dates := sorted(found.get("date", [])):
        found["date"] = distinct([dates[0], dates[-1]])
    return found, {key: seconds for table in tables for key, seconds in table.compute.items()}


def distinct(texts: Iterable[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text]


def dataset_text(dataset: Mapping[str, Any]) -> str:
    hashes = [
        f"{what} {str(dataset[key])[:12]}"
        for key, what in (("train", "trained on"), ("val", "scored on"))
        if dataset.get(key)
    ]
    return f"{dataset.get('name', '?')} ({', '.join(hashes)})"


def commit_text(commit: str | None) -> str:
    """Shortened; `+` at the end means uncommitted changes."""
    return "unknown" if not commit else commit.rstrip("+")[:10] + "+" * commit.endswith("+")


def hardware_text(hardware: Mapping[str, Any]) -> str:
    if not hardware:
        return "unknown"
    threads = f"{hardware.get('cpu')} CPU, threads: {hardware.get('threads')} on {hardware.get('cpu_count')} cores"
    return f"{hardware['gpu']}, {threads}" if hardware.get("gpu") else threads


def compute_text(compute: Mapping[str, float]) -> str:
    """`1 h 02 min of training in 3 runs`."""
    return f"{duration(sum(compute.values()))} of training in {len(compute)} run{'s' * (len(compute) != 1)}"
