"""What is said around a table: warnings, notes, where its numbers come from."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from diffi2i.metrics.spec import FEW_IMAGES, METRICS
from diffi2i.run.record import Record
from diffi2i.tables.experiment import ALL_TASKS, Experiment
from diffi2i.tables.frame import Found

PEER = "peer: the paper's value"
WITHOUT_CONTROL = "there is no record of the same network without a prior under the same seed, of the same images"
NOT_ASKED = "it is not among the scores of these runs"


def prior_warnings(experiment: Experiment, found: Found) -> list[str]:
    """A warning where networks do not depend on their prior. That they do does not say that it is worth anything."""
    gains: dict[str, list[float]] = {}
    for (row, _, dataset), record in found.records.items():
        gain = record.scores[record.main_metric].gains.get("prior_dependence")
        if dataset == "" and gain is not None:
            gains.setdefault(row, []).append(gain / least_gain(record))
    without = [label for row, label in experiment.labels.items() if row in gains and abs(fmean(gains[row])) < 1]
    if not without:
        return []
    which = "any row" if len(without) == len(gains) else ", ".join(without)
    return [
        f"Here another image's prior costs less than 0.05 dB (1 % of a score that is not in dB) in {which}. What such "
        "rows say about the prior means nothing."
    ]


def least_gain(record: Record) -> float:
    """The prior dependence below which the prior counts as unused: about 1 % of the error in any unit."""
    value = record.scores[record.main_metric].value
    return 0.05 if record.main_metric.startswith("psnr") else 0.01 * abs(value or 1.0)


def notes(experiment: Experiment, found: Found, cells: pd.DataFrame, budget: str) -> list[str]:
    """The experiment's own, then which runs have no record, then why scores are n/a and how to read those there are."""
    return [
        *([experiment.note.strip()] if experiment.note else []),
        *row_notes(experiment),
        *weights_notes(experiment, found),
        *same_notes(experiment, found),
        *state_notes(experiment, found, budget),
        *value_notes(experiment, found, cells),
    ]


def row_notes(experiment: Experiment) -> list[str]:
    """Rows that share a note are named together."""
    labels: dict[str, list[str]] = {}
    for row in experiment.rows:
        if note := "; ".join(filter(None, ["" if row.run else PEER, row.note])):
            labels.setdefault(note, []).append(row.label)
    return [f"{'; '.join(those)}: {note}." for note, those in labels.items()]


def weights_notes(experiment: Experiment, found: Found) -> list[str]:
    """Which rows were not trained here."""
    hashes = {
        experiment.labels[row]: record.method.imported[:12]
        for (row, _, _), record in found.records.items()
        if record.method and record.method.imported
    }
    return [f"{label}: other authors' weights (sha256 {digest}), not trained here." for label, digest in hashes.items()]


def same_notes(experiment: Experiment, found: Found) -> list[str]:
    """Which rows are one and the same run under these settings."""
    labels: dict[Path, dict[str, None]] = {}
    for (row, _, _), file in found.files.items():
        labels.setdefault(file, {})[experiment.labels[row]] = None
    return distinct(f"{'; '.join(those)}: one and the same run here." for those in labels.values() if len(those) > 1)


def state_notes(experiment: Experiment, found: Found, budget: str) -> list[str]:
    """Which cells have no record, and why; in full, since cells shorten their reasons."""
    missing = f"n/a: not run yet; diffi2i table {experiment.name} budget={budget} runs what is missing"
    seeds: dict[str, dict[str, dict[int, None]]] = {}
    for (row, seed, _), entry in found.entries.items():
        if not isinstance(entry, Record):
            what = missing if entry is None else f"{entry.word}: {entry.reason}"
            seeds.setdefault(what, {}).setdefault(experiment.labels[row], {})[seed] = None
    return [
        "; ".join(f"{label}, seed {', '.join(map(str, those))}" for label, those in rows.items()) + f": {what}."
        for what, rows in seeds.items()
    ]


def value_notes(experiment: Experiment, found: Found, cells: pd.DataFrame) -> list[str]:
    """Why scores are n/a, and how to read some of those that there are."""
    said = []
    for heading, column in cells[cells.origin == "here"].groupby("heading", sort=False):
        metric, dataset = column.metric.iloc[0], column.dataset.iloc[0]
        if "n/a" in set(column.text):
            said += [f"{heading} is n/a: {reason}." for reason in reasons(experiment, found, metric, dataset)]
        if column.few.any():
            said.append(f"† {heading} of fewer than {FEW_IMAGES} images is biased: compare only within its column.")
    sizes = distinct(" × ".join(map(str, each.cost.measured_at)) for each in found.records.values() if each.cost)
    if "seconds_per_image" in set(cells.metric) and sizes:
        said.append(f"Times here are those of one image of {', '.join(sizes)}, on the hardware named below.")
    return said


def reasons(experiment: Experiment, found: Found, metric: str, dataset: str) -> list[str]:
    """Why records have no such score, each reason once."""
    if metric == "prior_worth":
        return [WITHOUT_CONTROL] * any(experiment.control_of(row) for row, _, _ in found.records)
    records = [record for key, record in found.records.items() if key[2] == dataset]
    having = [record.scores[metric] for record in records if metric in record.scores]
    whys = [str(score.why_not).rstrip(".") for score in having if score.value is None]
    if metric in METRICS and experiment.task != ALL_TASKS and len(having) < len(records):
        whys.append(NOT_ASKED)
    return distinct(whys)


def provenance(records: Sequence[Record], budget: str) -> dict[str, list[str]]:
    """Each distinct value in the records."""
    origins = [record.provenance for record in records]
    dates = sorted(origin.date[:10] for origin in origins)
    return {
        "budget": [budget],
        "dataset": distinct(dataset_text(record) for record in records),
        "commit": distinct(commit_text(origin.commit) for origin in origins),
        "hardware": distinct(hardware_text(origin.hardware) for origin in origins),
        "date": distinct([*dates[:1], *dates[-1:]]),
        "packages": distinct(", ".join(f"{key} {value}" for key, value in each.versions.items()) for each in origins),
    }


def distinct(texts: Iterable[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text]


def dataset_text(record: Record) -> str:
    hashes = {"trained on": record.data.train, "scored on": record.data.val}
    return f"{record.data.dataset} ({', '.join(f'{what} {value[:12]}' for what, value in hashes.items() if value)})"


def counted(count: float, what: str) -> str:
    return f"{count:.0f} {what}{'' if count == 1 else 's'}"


def commit_text(commit: str | None) -> str:
    """Shortened; `+` at the end means uncommitted changes."""
    return "unknown" if not commit else commit.rstrip("+")[:10] + "+" * commit.endswith("+")


def hardware_text(hardware: Mapping[str, Any]) -> str:
    if not hardware:
        return "unknown"
    bits = ", ".join(hardware[key] for key in ("instructions", "precision") if hardware.get(key))  # not of old records
    processor = f"{hardware.get('cpu')} CPU" + (f" ({bits})" if bits else "")
    threads = f"threads: {hardware.get('threads')} on {hardware.get('cpu_count')} cores"
    return ", ".join(filter(None, [hardware.get("gpu"), processor, threads]))


def merged(provenances: Sequence[Mapping[str, list[str]]]) -> dict[str, list[str]]:
    """Provenance of several tables."""
    found = {what: distinct(text for each in provenances for text in each[what]) for what in provenances[0]}
    return found | {"date": distinct([*sorted(found["date"])[:1], *sorted(found["date"])[-1:]])}
