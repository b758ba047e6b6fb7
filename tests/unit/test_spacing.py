"""The time steps of a sampler that has only a few, against numpy, and the search for them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffi2i.diffusion.samplers import earliest_start, visited
from diffi2i.diffusion.schedule import Schedule, linear, sqrt_linear
from diffi2i.diffusion.spacing import gamma_steps, greedy, subsets
from tests.examples import quick


@pytest.mark.parametrize("bias", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("gamma", [1 / 3, 0.7, 1.0, 1.3, 2.0])
def test_a_gamma_curve_in_numpy(gamma: float, bias: float) -> None:
    T, n = 1000, 7
    curve = (np.arange(1, n + 1) / n) ** np.float64(gamma) * T
    towards = 0 if gamma > 1 else T  # the end of sampling, or its beginning
    expected = towards + (curve - towards) * (1 - bias + bias * min(gamma, 1 / gamma))
    assert gamma_steps(T, n, gamma, bias) == np.rint(expected).astype(int).tolist()


def test_gamma_says_where_the_steps_lie() -> None:
    even, late, early = (gamma_steps(1000, 5, gamma) for gamma in (1.0, 2.0, 0.5))
    assert even == visited(Schedule([0.01] * 1000, "x0"), 5)[::-1] == [200, 400, 600, 800, 1000]
    assert late == [40, 160, 360, 640, 1000]  # most at the end of sampling
    assert early == [447, 632, 775, 894, 1000]
    assert gamma_steps(1000, 5, 2.0, 0.2)[-1] == 900
    assert gamma_steps(1000, 5, 2.0, 0.2, start=950)[-1] == 950
    assert gamma_steps(1000, 5, 0.5, 0.2)[0] == 502


@given(
    st.integers(1, 60).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T), st.integers(1, T))),
    st.floats(0.02, 50),
    st.floats(0, 0.99),
)
@quick
def test_they_rise_within_the_schedule_whatever_the_curve(
    numbers: tuple[int, int, int], gamma: float, bias: float
) -> None:
    T, n, start = numbers
    times = gamma_steps(T, n, gamma, bias, start)
    assert len(times) == n
    assert times == sorted(set(times))
    assert times[0] >= 1
    assert start <= times[-1] <= T


@pytest.mark.parametrize(("T", "n", "gamma", "bias"), [(4, 5, 1, 0), (4, 0, 1, 0), (4, 2, 0, 0), (4, 2, 1, 1)])
def test_curves_that_there_are_not(T: int, n: int, gamma: float, bias: float) -> None:
    with pytest.raises(ValueError, match="no such time steps"):
        gamma_steps(T, n, gamma, bias)


@pytest.mark.parametrize("best", [1 / 2.3, 1 / 1.1, 1.0, 1.1, 1.7, 3.0])
def test_the_greedy_search_walks_to_the_top_and_one_step_beyond(best: float) -> None:
    asked: list[float] = []

    def score(gamma: float) -> float:
        asked.append(gamma)
        return -abs(math.log(gamma / best))

    assert greedy(score, 0.1) == pytest.approx(best)
    away = round(10 * (max(best, 1 / best) - 1))
    assert len(asked) == len(set(asked)) == (3 if best == 1 else away + 3)
    assert max(abs(math.log(gamma)) for gamma in asked) == pytest.approx(math.log(1.1 + away / 10))


def test_a_score_that_does_not_care_leaves_even_steps() -> None:
    assert greedy(lambda _: math.inf, 0.1) == 1.0
    assert greedy(lambda gamma: min(gamma, 1.3), 0.1) == pytest.approx(1.3)


def test_subsets_are_all_that_end_at_the_last_step() -> None:
    assert subsets(4) == [[4], [1, 4], [2, 4], [3, 4], [1, 2, 4], [1, 3, 4], [2, 3, 4], [1, 2, 3, 4]]
    assert [len(subsets(T)) for T in (1, 2, 8)] == [1, 2, 128]


def test_sampling_starts_where_hardly_anything_is_left() -> None:
    for betas in (linear(1000, 1e-4, 0.02), sqrt_linear(1000, 0.0015, 0.0195), linear(4, 0.1, 0.99)):
        schedule, left = Schedule(betas, "x0"), np.cumprod(1 - np.asarray(betas))
        first = int(np.flatnonzero(left <= 0.01)[0]) + 1
        assert earliest_start(schedule) == first
        assert visited(schedule, [1, first]) == [first, 1]
        with pytest.raises(ValueError, match=rf"must increase within 1..{len(betas)} and end at {len(betas)}"):
            visited(schedule, [1, first - 1])
    assert earliest_start(Schedule([0.01] * 5, "x0")) == 5
    for times in ([3, 2, 4], [2, 2, 4], [0, 4], [1, 5], []):  # which do not fall, or lie outside
        with pytest.raises(ValueError, match=r"must increase within 1\.\.4 and end at 4: write for example"):
            visited(schedule, times)
