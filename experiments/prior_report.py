"""docs/prior.md and docs/prior.svg from the kept records of the study: `python experiments/prior_report.py`.

The text is experiments/prior.md.jinja; every number in it is asked of `Report`, whose methods the text calls by name.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
import pandas as pd
from collect import RESULTS
from matplotlib.figure import Figure
from numpy.typing import NDArray
from prior import design, listed
from prior_statistics import Effect, Variances, holm, smallest_effect, two_way_bootstrap, variances
from tradeoff import save

from diffi2i.files import whole
from diffi2i.metrics.spec import METRICS
from diffi2i.run.plan import RUNS
from diffi2i.run.record import Record
from diffi2i.tables.experiment import load
from diffi2i.tables.figures import BLUE, GREY, STYLE, VERMILION
from diffi2i.tables.markdown import markdown
from diffi2i.tables.remarks import distinct, hardware_text
from diffi2i.tables.table import Table

HERE = Path(__file__).resolve().parent
TEXT, KEPT = HERE / "prior.md.jinja", RESULTS / "demo" / "prior"
PAGE, PICTURE = (HERE.parent / "docs" / name for name in ("prior.md", "prior.svg"))
CONTRASTS = [("s1", "none"), ("s1-on", "none-on"), ("v1", "none-on"), ("v3", "none-on"), ("v3", "v1")]
"""Each a row less another of as many steps. Holm's correction is over all of them in all settings."""
REPEATED = ("rerun", "fresh")
"""Where rows were kept that were trained anew: with other arithmetic; with other seeds and images."""
RATES = {"-half": "5e-4", "": "1e-3", "-twice": "2e-3"}
"""Learning rates, by how the names of their rows end."""
PILOTS = {
    "inpainting": "table7",
    "sisr": "small-sisr",
    "deblur": "small-deblur",
    "depth": "small-depth",
    "realsr-gan": "small-realsr",
    "segmentation": "small-segmentation",
}
"""Earlier tables of like settings, by whose records it was reckoned what the study would see."""
SIGNIFICANT = 0.05
BETTER, WORSE, OPEN = "better", "worse", "open"

Pair = tuple[str, str]


def frame_of(records: Iterable[tuple[str, int, Record]], metric: str) -> pd.DataFrame:
    """A line for each row, seed and image: the score in the printed unit, its sign such that more is better."""
    sign = -1 if METRICS[metric].lower else 1
    lines = [
        (row, seed, image["name"], sign * METRICS[metric].unit * float(image[metric]))
        for row, seed, record in records
        for image in record.images
    ]
    return pd.DataFrame(lines, columns=["row", "seed", "image", "value"])


def differences(frame: pd.DataFrame, one: str, other: str) -> NDArray[np.float64] | None:
    """(seeds, images) of what both rows have; None where they share fewer than two seeds."""
    values = frame.pivot_table("value", ["row", "seed"], "image")
    if not {one, other} <= {*values.index.get_level_values("row")}:
        return None
    apart = (values.loc[one] - values.loc[other]).dropna()
    return None if len(apart) < 2 else apart.to_numpy()


def pilot(setting: str) -> Variances:
    """Where the difference of V3 and no prior varied in the earlier table."""
    table = Table.from_json(json.loads((RESULTS / "demo" / f"{PILOTS[setting]}.json").read_text(encoding="utf-8")))
    runs = [run for run in table.runs if not run["dataset"] and run["row"] in ("v3", "none-on")]
    records = [(run["row"], run["seed"], Record.read(RESULTS / Path(run["file"]).relative_to(RUNS))) for run in runs]
    found = differences(frame_of(records, design().settings[setting].metric), "v3", "none-on")
    assert found is not None
    return variances(found)


def records_of(results: Path) -> dict[tuple[str, str, int], Record]:
    """What prior.py has kept there, by setting, row and seed."""
    lines = listed(results / "demo" / "prior" / "records.json").values()
    return {(line["setting"], line["row"], line["seed"]): Record.read(results / line["file"]) for line in lines}


def as_long(row: str, other: str) -> bool:
    """Whether both are first stages, or both second ones: then they have been trained for as many steps."""
    return (design().rows[row].init is None) == (design().rows[other].init is None)


def told(effect: Effect, digits: int) -> str:
    mean, low, high = (f"{value:+.{digits}f}" for value in (effect.mean, effect.low, effect.high))
    return f"{mean} ± {effect.sd:.{digits}f} [{low}, {high}]"


class Report:
    """What the study's records say, by setting and row."""

    def __init__(self) -> None:
        self.records = records_of(RESULTS)
        self.repeated = {name: records_of(RESULTS / name) for name in REPEATED}
        self.drawn: dict[tuple[str, Pair], Effect | None] = {}
        self.probes = pd.DataFrame(listed(KEPT / "probes.json").values())

    @cached_property
    def frames(self) -> dict[str, pd.DataFrame]:
        return {
            setting: frame_of(
                [(row, seed, record) for (of, row, seed), record in self.records.items() if of == setting], each.metric
            )
            for setting, each in design().settings.items()
        }

    @cached_property
    def effects(self) -> dict[tuple[str, Pair], Effect]:
        """Of the main contrasts, as far as they have been run."""
        found = {(setting, pair): self.effect(setting, pair) for setting in design().settings for pair in CONTRASTS}
        return {key: effect for key, effect in found.items() if effect}

    def of(self, setting: str, row: str) -> dict[int, Record]:
        """The records of a row, by seed."""
        return {seed: record for (where, name, seed), record in self.records.items() if (where, name) == (setting, row)}

    def effect(self, setting: str, pair: Pair) -> Effect | None:
        """Drawn once: the page asks for most of them several times."""
        if (setting, pair) not in self.drawn:
            apart = differences(self.frames[setting], *pair)
            self.drawn[setting, pair] = None if apart is None else two_way_bootstrap(apart)
        return self.drawn[setting, pair]

    @cached_property
    def corrected(self) -> dict[tuple[str, Pair], float]:
        return holm({key: effect.p for key, effect in self.effects.items()})

    def verdict(self, setting: str, pair: Pair) -> str:
        """Whether the first is better, at 5 % after the correction, and by more than the seeds differ."""
        effect = self.effects.get((setting, pair))
        if effect is None or self.corrected[setting, pair] > SIGNIFICANT or effect.sd >= abs(effect.mean):
            return OPEN
        return BETTER if effect.mean > 0 else WORSE

    # What the text asks for.

    def digits(self, setting: str) -> int:
        return METRICS[design().settings[setting].metric].digits + 1

    def gain(self, setting: str, one: str, other: str) -> str:
        """`+0.312 ± 0.041 [+0.104, +0.521]`: mean, deviation over the seeds, interval."""
        effect = self.effect(setting, (one, other))
        return told(effect, self.digits(setting)) if effect else "n/a"

    def where(self, one: str, other: str, verdict: str) -> str:
        """The settings in which the first is better, worse, or that leave it open."""
        pair = (one, other)
        names = [setting for setting, of in self.effects if of == pair and self.verdict(setting, pair) == verdict]
        return ", ".join(names) or "none"

    def size(self) -> dict[str, Any]:
        """Trainings, and their processor hours."""
        trainings = {record.training.weights: record.training for record in self.records.values() if record.training}
        seconds = sum(training.cpu_seconds or 0 for training in trainings.values())
        return {"trainings": len(trainings), "hours": f"{seconds / 3600:.1f}"}

    def parameters(self) -> str:
        """Of V3 at inference, in millions: the least and the most."""
        found = [
            record.cost.parameters / 1e6 for (_, row, _), record in self.records.items() if row == "v3" and record.cost
        ]
        return f"{min(found):.1f} to {max(found):.1f}"

    def draws(self) -> int:
        return int(self.probes.draws.max())

    def most_spread(self, row: str) -> str:
        """Of the means over the seeds the largest."""
        return f"{100 * self.probes[self.probes.row == row].groupby('setting').spread.mean().max():.1f} %"

    def again(self, name: str) -> str:
        """A table: the main contrasts of the rows that were trained anew, beside what the study says of them."""
        labels = {name: row.label for name, row in design().rows.items()}
        rows: list[Sequence[str]] = [("setting", "", "seeds", "images", "the study", "again", "in the interval")]
        for setting, each in design().settings.items():
            records = [(row, seed, record) for (of, row, seed), record in self.repeated[name].items() if of == setting]
            frame = frame_of(records, each.metric)
            for one, other in CONTRASTS:
                effect, apart = self.effect(setting, (one, other)), differences(frame, one, other)
                if apart is not None and effect is not None:
                    found = two_way_bootstrap(apart)
                    numbers = (str(found.seeds), str(found.images), self.gain(setting, one, other))
                    shown = (
                        told(found, self.digits(setting)),
                        "yes" if effect.low <= found.mean <= effect.high else "no",
                    )
                    rows.append((setting, f"{labels[one]} − {labels[other]}", *numbers, *shown))
        return markdown(rows) if len(rows) > 1 else "Not run yet."

    def again_on(self, name: str) -> str:
        """What the rows that were trained anew were calculated with."""
        return "; ".join(distinct(hardware_text(record.provenance.hardware) for record in self.repeated[name].values()))

    def share(self, setting: str) -> str:
        """V3's gain over no prior, in per cent of stage 1's."""
        v3, s1 = (self.effect(setting, (row, "none-on")) for row in ("v3", "s1-on"))
        return f"{100 * v3.mean / s1.mean:.0f} %" if v3 and s1 else "n/a"

    def paper(self) -> str:
        """A table: the paper's Table 7, which has these variants."""
        printed = load("table7")
        heading = printed.columns[printed.claim_column].heading
        rows = [("", heading)]
        rows += [
            (row.label, row.paper[printed.claim_column]) for row in printed.rows if row.paper[printed.claim_column]
        ]
        return markdown(rows)

    def settings(self) -> str:
        """A table: what is scored in which setting, and on how many images and seeds."""
        rows: list[Sequence[str]] = [("setting", "", "score", "steps of a stage", "images", "seeds of the main rows")]
        for name, setting in design().settings.items():
            records = self.of(name, "v3")
            first = next(iter(records.values()), None)
            steps = " + ".join(
                next(word.removeprefix("train.steps=") for word in words if word.startswith("train.steps="))
                for words in (setting.fresh, setting.continued)
            )
            titled = METRICS[setting.metric].titled
            rows.append(
                (name, setting.label, titled, steps, str(len(first.images)) if first else "", str(len(records)))
            )
        return markdown(rows)

    def power(self) -> str:
        """A table: what the design could have seen, reckoned from earlier records."""
        seeds = design().seeds["main"]
        rows: list[Sequence[str]] = [("setting", "score", "over seeds", "over images", "the rest", "smallest")]
        for setting in PILOTS:
            found, digits = pilot(setting), self.digits(setting)
            images = next((effect.images for (of, _), effect in self.effects.items() if of == setting), 100)
            deviations = [np.sqrt(value) for value in (found.seeds, found.images, found.rest)]
            numbers = [f"{value:.{digits}f}" for value in (*deviations, smallest_effect(found, seeds, images))]
            rows.append((setting, METRICS[design().settings[setting].metric].titled, *numbers))
        return markdown(rows)

    def scores(self) -> str:
        """A table: the main rows' means, and their deviation over the seeds."""
        names = design().groups["main"]
        rows = [("setting", "score", *(row.label for row in names.values()))]
        for setting, frame in self.frames.items():
            metric = METRICS[design().settings[setting].metric]
            if frame.empty:
                continue
            by_seed = frame.groupby(["row", "seed"]).value.mean() * (-1 if metric.lower else 1)
            cells = []
            for row in names:
                values = by_seed.loc[row] if row in by_seed.index.get_level_values(0) else pd.Series(dtype=float)
                spread = f" ± {values.std():.{metric.digits}f}" if len(values) > 1 else ""
                cells.append(f"{values.mean():.{metric.digits}f}{spread}" if len(values) else "")
            rows.append((setting, metric.titled, *cells))
        return markdown(rows)

    def worth(self) -> str:
        """A table: the main contrasts. Bold: better or worse at 5 % after Holm's correction."""
        labels = {name: row.label for name, row in design().rows.items()}
        rows = [("setting", *(f"{labels[one]} − {labels[other]}" for one, other in CONTRASTS))]
        for setting in design().settings:
            if not any(of == setting for of, _ in self.effects):
                continue
            cells = []
            for pair in CONTRASTS:
                text = self.gain(setting, *pair)
                cells.append(text if self.verdict(setting, pair) == OPEN else f"**{text}**")
            rows.append((setting, *cells))
        return markdown(rows)

    def against(self, setting: str, groups: Sequence[str], others: Sequence[str]) -> str:
        """A table: each row of the groups less each of the others that have as many steps."""
        named = design().rows
        rows = [("row", "seeds", *(f"less {named[other].label}" for other in others))]
        for row in (row for group in groups for row in design().groups[group]):
            seeds = len(self.of(setting, row))
            if seeds >= 2:
                gains = (self.gain(setting, row, other) if as_long(row, other) else "" for other in others)
                rows.append((named[row].label, str(seeds), *gains))
        return markdown(rows) if len(rows) > 1 else "Not run yet."

    def rates(self) -> str:
        """A table: what V1 and V3 gain at other learning rates, over no prior at the same one."""
        rows: list[Sequence[str]] = [
            (
                "setting",
                "learning rate",
                "seeds",
                "no prior, less the same at 1e-3",
                *(f"{row} − no prior" for row in ("V1", "V3")),
                "V3 − V1",
            )
        ]
        for setting in design().within["rates"]:
            for end, rate in RATES.items():
                none, v1, v3 = (f"{row}{end}" for row in ("none-on", "v1", "v3"))
                pairs = [(v1, none), (v3, none), (v3, v1)]
                if self.effect(setting, pairs[0]):
                    against = self.gain(setting, none, "none-on") if end else ""
                    gains = (self.gain(setting, *pair) for pair in pairs)
                    rows.append((setting, rate, str(len(self.of(setting, none))), against, *gains))
        return markdown(rows)

    def moved(self, setting: str, better: bool) -> str:
        """The factors whose interval lies above (`better`) or below V3's score."""
        found = []
        for row in design().groups["factors"]:
            effect = self.effect(setting, (row, "v3")) if as_long(row, "v3") else None
            if effect and (effect.low > 0 if better else effect.high < 0):
                found.append(design().rows[row].label.removeprefix("V3, "))
        return "; ".join(found) or "none"

    def sets(self, setting: str, rows: Sequence[str], metrics: Sequence[str]) -> str:
        """A table: scores of the whole set or of images, of the seeds that all have, with their deviation over them."""
        by_row = {row: self.of(setting, row) for row in rows}
        seeds = [set(found) for found in by_row.values() if found]
        shared = set.intersection(*seeds) if seeds else set[int]()
        head = [("row", "seeds", *(METRICS[metric].titled for metric in metrics))]
        for row in rows:
            records = [record for seed, record in by_row[row].items() if seed in shared]
            cells = []
            for metric in metrics:
                values = pd.Series([record.scores[metric].value for record in records], dtype=float)
                spread = f" ± {values.std():.{METRICS[metric].digits}f}" if len(values) > 1 else ""
                cells.append(f"{values.mean():.{METRICS[metric].digits}f}{spread}")
            if records:
                head.append((design().rows[row].label, str(len(records)), *cells))
        return markdown(head) if len(head) > 1 else "Not run yet."

    def probed(self, rows: Sequence[str]) -> str:
        """A table: means over the seeds of what prior_probes.py found."""
        numbers = {"spread": ".3f", "told": ".2f", "apart": ".2f", "apart_lpips": ".4f"}
        head: list[Sequence[str]] = [
            ("setting", "row", "seeds", "spread of Ẑ", "of Z told", "outputs apart, levels", "LPIPS apart")
        ]
        for setting in design().settings:
            for row in rows:
                if self.probes.empty:
                    break
                found = self.probes[(self.probes.setting == setting) & (self.probes.row == row)]
                if len(found):
                    means = [found[name].mean() for name in numbers]
                    cells = [
                        "" if np.isnan(value) else f"{value:{form}}"
                        for value, form in zip(means, numbers.values(), strict=True)
                    ]
                    head.append((setting, design().rows[row].label, str(len(found)), *cells))
        return markdown(head) if len(head) > 1 else "Not run yet."


def picture(report: Report) -> Figure:
    """A panel a setting: what each row gains over the network without a prior, with its interval."""
    settings = [setting for setting, (one, other) in report.effects if (one, other) == CONTRASTS[0]]
    pairs, labels = CONTRASTS[:4], {name: row.label for name, row in design().rows.items()}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 1.6 * -(-len(settings) // 3) + 0.6), layout="constrained")
        axes = figure.subplots(-(-len(settings) // 3), 3, squeeze=False, sharey=True)
        for place, setting in zip(axes.flat, settings, strict=False):
            for height, pair in enumerate(reversed(pairs)):
                if effect := report.effects.get((setting, pair)):
                    colour = VERMILION if report.verdict(setting, pair) == WORSE else BLUE
                    shown = GREY if report.verdict(setting, pair) == OPEN else colour
                    place.plot([effect.low, effect.high], [height, height], color=shown, linewidth=1.5)
                    place.plot(effect.mean, height, "o", color=shown, markersize=4)
            place.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
            place.set_title(f"{setting}: {METRICS[design().settings[setting].metric].heading}", loc="left")
            place.set_yticks(range(len(pairs)), [labels[one] for one, _ in reversed(pairs)])
            place.set_ylim(-0.6, len(pairs) - 0.4)
        for place in axes.flat[len(settings) :]:
            place.set_visible(False)
        figure.supxlabel("gain over no prior with as many steps, right is better", fontsize=9)
        return figure


def rendered(report: Report) -> str:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    return environment.from_string(TEXT.read_text(encoding="utf-8")).render(report=report, design=design())


def main() -> None:
    report = Report()
    with whole(PAGE) as temporary:
        temporary.write_text(rendered(report), encoding="utf-8")
    save(picture(report), PICTURE)


if __name__ == "__main__":
    main()
