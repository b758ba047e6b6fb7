"""The study of the prior: its statistics against their own sums, and that its design can be run."""

import itertools
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from diffi2i.errors import UserError
from diffi2i.run.rows import experiments_dir


@pytest.fixture(autouse=True)
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(experiments_dir()))


@pytest.fixture
def statistics() -> ModuleType:
    import prior_statistics

    return prior_statistics


@pytest.fixture
def prior() -> ModuleType:
    import prior

    return prior


def effects(seeds: int, images: int, of_seeds: float, of_images: float, rest: float, rng: Any) -> Any:
    return (
        of_seeds * rng.standard_normal((seeds, 1))
        + of_images * rng.standard_normal((1, images))
        + rest * rng.standard_normal((seeds, images))
    )


def test_bootstrap_draws_one_fewer_of_each(statistics: ModuleType):
    """Against all draws there are: of 3 seeds 2, of 4 images 3."""
    values = np.random.default_rng(0).standard_normal((3, 4)) + 0.3
    every = [
        np.mean([values[s, i] for s in seeds for i in images])
        for seeds in itertools.product(range(3), repeat=2)
        for images in itertools.product(range(4), repeat=3)
    ]
    found = statistics.two_way_bootstrap(values, resamples=50_000)
    assert found.mean == pytest.approx(values.mean())
    share = np.mean(np.array(every) <= 0)
    assert found.p == pytest.approx(2 * min(share, 1 - share), abs=0.01)
    # Between two of the few means that there are lies no number: the interval's ends are of the neighbours.
    ordered = np.sort(every)
    for end, level in ((found.low, 0.025), (found.high, 0.975)):
        around = ordered[[int((level - 0.01) * len(ordered)), int((level + 0.01) * len(ordered))]]
        assert around[0] - 1e-9 <= end <= around[1] + 1e-9
    assert found.sd == pytest.approx(np.std([values[s].mean() for s in range(3)], ddof=1))


def test_interval_is_as_wide_as_the_mean_is_uncertain(statistics: ModuleType):
    """Where seeds and images differ and nothing else: the variance of the mean is the sum of both parts'."""
    rng = np.random.default_rng(1)
    widths = []
    for _ in range(30):
        found = statistics.two_way_bootstrap(effects(5, 50, 1.0, 2.0, 0.0, rng), resamples=1000)
        widths.append((found.high - found.low) / (2 * 1.96))
    true = np.sqrt(1.0 / 5 + 4.0 / 50)
    assert 0.75 * true < np.mean(widths) < 1.1 * true


def test_interval_covers_the_truth_nearly_as_often_as_it_says(statistics: ModuleType):
    rng, covered = np.random.default_rng(2), 0
    for _ in range(100):
        found = statistics.two_way_bootstrap(effects(5, 40, 0.5, 1.0, 0.7, rng), resamples=1000)
        covered += found.low <= 0 <= found.high
    assert 0.85 <= covered / 100 <= 1.0


@pytest.mark.parametrize("shape", [(1, 9), (5, 1)])
def test_bootstrap_refuses_what_has_no_second(statistics: ModuleType, shape: tuple[int, int]):
    with pytest.raises(ValueError, match="two of each"):
        statistics.two_way_bootstrap(np.zeros(shape))


def test_variances_are_those_that_made_the_numbers(statistics: ModuleType):
    found = statistics.variances(effects(60, 80, 0.5, 1.5, 1.0, np.random.default_rng(3)))
    np.testing.assert_allclose([found.seeds**0.5, found.images**0.5, found.rest**0.5], [0.5, 1.5, 1.0], rtol=0.15)
    assert found.error(4, 25) == pytest.approx(np.sqrt(found.seeds / 4 + found.images / 25 + found.rest / 100))


def test_smallest_effect_is_seen_four_times_in_five(statistics: ModuleType):
    rng = np.random.default_rng(4)
    known = statistics.Variances(seeds=0.25, images=1.0, rest=0.5)
    size, error = statistics.smallest_effect(known, 5, 100), known.error(5, 100)
    means = size + error * rng.standard_normal(20_000)
    assert np.mean(np.abs(means) > 1.959964 * error) == pytest.approx(0.8, abs=0.01)


def test_holm_is_bonferroni_step_by_step(statistics: ModuleType):
    found = statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})


def words() -> list[str]:
    return ["dataset=photos", "budget=demo"]


def every_row(prior: ModuleType) -> Iterator[tuple[str, str]]:
    """Each setting with one row, and one setting with each row."""
    rows, settings = list(prior.design().rows), list(prior.design().settings)
    yield from ((setting, "v3") for setting in settings)
    yield from (("tone", row) for row in rows)


def test_every_row_is_a_training_that_composes(prior: ModuleType):
    photos = [each for each in every_row(prior) if prior.design().settings[each[0]].data == "photos"]
    runs = {each: prior.run_of(*each, 0, words()) for each in photos}
    assert len(runs) > 30
    for (setting, row), run in runs.items():
        init = prior.design().rows[row].init
        assert (run.before is None) == (init is None)
        if run.before is not None:
            assert run.before.directory == prior.run_of(setting, init, 0, words()).directory
            assert run.config.method["init"] == str(run.before.directory)


def test_rows_of_a_setting_have_the_same_steps_and_inputs(prior: ModuleType):
    runs = [prior.run_of("context", row, 0, words()).config for row in ("none-on", "s1-on", "v1", "v3")]
    assert len({(run.train.steps, run.train.batch, run.train.patch, run.train.loss) for run in runs}) == 1
    assert all(run.task.degrade == runs[0].task.degrade for run in runs)


def test_main_rows_come_first_and_seed_by_seed(prior: ModuleType):
    cells = list(prior.design().cells())
    assert len(set(cells)) == len(cells)
    main = prior.design().groups["main"]
    seeds = [seed for seed, _, row in cells if row in main]
    assert seeds == sorted(seeds)
    assert all(row in main for _, _, row in cells[: len(seeds)])


def test_seeds_are_so_many_or_those_that_are_named(prior: ModuleType):
    def seeds(text: str | None) -> list[int]:
        return [seed for seed, _, _ in prior.chosen("tone/v3", text)]

    assert seeds(None) == [0, 1, 2, 3, 4]
    assert seeds("2") == [0, 1]
    assert seeds("[7,5]") == [7, 5]
    assert len({prior.run_of("tone", "v3", seed, words()).directory for seed in (5, 7)}) == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "write one of photos=<folder>"),
        (["photos=nowhere"], "photos=nowhere is no folder"),
        (["photos=.", "only=[tones]"], "only=tones: write a setting, tone"),
        (["photos=.", "only=tone/v9"], "only=tone/v9"),
        (["photos=.", "seeds=three"], "seeds=three: write a number above 0"),
        (["photos=.", "seeds=0"], "seeds=0: write a number above 0"),
        (["photos=.", "seeds=[5,-6]"], "seeds=[5,-6]: write a number above 0, or a list"),
        (["photos=.", "seeds=[5"], "seeds=[5: write a number above 0, or a list"),
        (["photos=.", f"results={__file__}", "only=tone/none", "seeds=1"], f"results={__file__} is no folder"),
        (["photos=.", "jobs=0", "only=tone/none", "seeds=1"], "jobs=0: write a number"),
        (["photos=.", "only=tone/none", "seeds=1", "train.stepps=3"], ""),
    ],
)
def test_what_cannot_be_is_named(prior: ModuleType, given: list[str], said: str):
    with pytest.raises(UserError, match=f"^{re.escape(said)}"):
        prior.asked(given)


def test_probe_tells_what_varies_and_what_the_input_tells():
    """Z is the image's own number and a coin's; a run that knows the first and draws the second at random."""
    import prior_probes

    rng = np.random.default_rng(5)
    own, coin = 2.0 * rng.standard_normal((400, 6)), rng.standard_normal((400, 6))
    draws = own + rng.standard_normal((50, 400, 6))
    found = prior_probes.variances(torch.from_numpy(draws), torch.from_numpy(own + coin))
    assert found["spread"] == pytest.approx(1 / (1 + 4), rel=0.05)
    left = sum(np.sum((own[i] + coin[i] - draws[:, i].mean(axis=0)) ** 2) for i in range(400))
    there = np.sum((own + coin - (own + coin).mean(axis=0)) ** 2)
    assert found["told"] == pytest.approx(1 - left / there, abs=1e-9)
    assert found["told"] == pytest.approx(4 / 5, abs=0.03)
    median = prior_probes.variances(torch.from_numpy(np.repeat(own[None], 8, 0)), torch.from_numpy(own + coin))
    assert median["spread"] == 0
