"""Bootstrap intervals against numpy and the normal distribution, the sign test by hand, records of several ranks."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist

from diffi2i.metrics.intervals import ImageRecord, bootstrap_interval, image_intervals, of_all_ranks, paired_difference
from tests.processes import joined, together


def sample(n: int, seed: int = 0) -> list[float]:
    return [float(x) for x in np.random.default_rng(seed).normal(28, 3, n)]


def interval(values: list[float]) -> tuple[float, float]:
    found = bootstrap_interval(values)
    assert found is not None
    return found


def test_the_interval_is_that_of_resampled_means() -> None:
    values = np.array([*sample(40), 60.0])  # an outlier makes it skewed
    rng = np.random.default_rng(99)
    means = np.array([values[rng.integers(0, len(values), len(values))].mean() for _ in range(20_000)])
    # The two quantiles vary by about 0.03 from one bootstrap to the next.
    assert interval(values.tolist()) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.1)


def test_the_interval_is_the_same_each_time() -> None:
    assert interval(sample(30)) == interval(sample(30))


def test_the_interval_covers_the_mean_of_normal_samples() -> None:
    covered = sum(low <= 28 <= high for low, high in (interval(sample(30, seed)) for seed in range(200)))
    # Percentile intervals of 30 values cover about 93 %; 200 trials have a standard deviation of 2 %.
    assert 0.87 <= covered / 200 <= 0.985


def test_its_width_follows_the_standard_error() -> None:
    values = sample(2000)
    low, high = interval(values)
    assert (high - low) / 2 == pytest.approx(1.96 * np.std(values) / math.sqrt(2000), rel=0.05)


@pytest.mark.parametrize("values", [[], [28.0], [28.0, math.inf], [28.0, math.nan]])
def test_too_few_or_infinite_values_have_no_interval(values: list[float]) -> None:
    assert bootstrap_interval(values) is None


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert bootstrap_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)


def test_scores_of_a_set_have_a_reason_instead_of_an_interval() -> None:
    records: list[ImageRecord] = [
        {"name": "a", "psnr": 28.0, "ssim": 0.9, "miou": 0.5, "psnr_hole": math.inf},
        {"name": "b", "psnr": 30.0, "miou": 0.7, "psnr_hole": 20.0},
    ]
    intervals, reasons = image_intervals(records, ["psnr", "ssim", "miou", "psnr_hole"])
    assert intervals == {"psnr": [28.0, 30.0]}
    assert reasons == {
        "ssim": "1 image(s) with this score; an interval needs 2",
        "miou": "a score of the whole set, no mean over images",
        "psnr_hole": "an image has an infinite score",
    }


def sign_test(fewer: int, n: int) -> float:
    """Two-sided, by the binomial formula: both tails are equal at one half."""
    tail: float = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
    return min(1.0, 2 * tail)


@pytest.mark.parametrize("lower_is_better", [False, True])
def test_differences_are_counted_and_tested(lower_is_better: bool) -> None:
    a = [float(i) for i in range(12)]
    steps = [1.0] * 8 + [-2.0] * 2 + [0.0] * 2
    found = paired_difference(a, [x + step for x, step in zip(a, steps, strict=True)], lower_is_better)
    assert found.mean == pytest.approx(4 / 12)
    assert (found.better, found.worse, found.equal) == ((2, 8, 2) if lower_is_better else (8, 2, 2))
    assert found.p == pytest.approx(sign_test(2, 10))
    assert found.p == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert found.interval == interval(steps)


def test_pairing_sees_what_two_means_do_not() -> None:
    a = sample(50)
    b = [x + 0.1 + 0.01 * noise for x, noise in zip(a, sample(50, 1), strict=True)]
    found = paired_difference(a, b)
    assert found.interval is not None
    low, high = found.interval
    assert low > 0.3
    assert high < 0.5
    assert found.p == pytest.approx(2 / 2**50)
    assert interval(a)[1] - interval(a)[0] > 1


def test_equal_images_say_nothing() -> None:
    found = paired_difference([1.0, math.inf], [1.0, math.inf])
    assert (found.mean, found.better, found.worse, found.equal, found.p) == (0, 0, 0, 2, 1)
    assert found.interval == (0, 0)


def test_an_infinite_difference_counts_but_has_no_interval() -> None:
    found = paired_difference([1.0, 2.0, 3.0], [math.inf, 1.0, 2.0])
    assert (found.mean, found.interval) == (math.inf, None)
    assert (found.better, found.worse) == (1, 2)
    assert math.isnan(paired_difference([1.0, math.inf], [math.inf, 2.0]).mean)


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0])])
def test_values_that_do_not_pair_are_an_error(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="same number, above 0"):
        paired_difference(a, b)


RECORDS: list[ImageRecord] = [
    {"name": name, "psnr": psnr} for name, psnr in (("b", 1.0), ("a", 2.0), ("d", 3.0), ("c", 4.0))
]
SORTED: list[ImageRecord] = [
    {"name": name, "psnr": psnr} for name, psnr in (("a", 2.0), ("b", 1.0), ("c", 4.0), ("d", 3.0))
]


def test_one_process_sorts_its_own_records() -> None:
    assert of_all_ranks(RECORDS) == SORTED


def _rank(rank: int, world: int, folder: str) -> None:
    with joined(rank, world, folder):
        # Uneven shares, then a rank without images.
        found = [of_all_ranks(shares[rank]) for shares in ([RECORDS[:3], RECORDS[3:]], [[], RECORDS])]
    torch.save(found, f"{folder}/rank{rank}.pt")


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")
@pytest.mark.slow
def test_records_of_all_ranks_are_gathered(tmp_path):
    together(_rank, 2, tmp_path)
    for rank in range(2):
        assert torch.load(tmp_path / f"rank{rank}.pt") == [SORTED, SORTED]
