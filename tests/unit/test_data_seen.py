"""What label and depth files hold, and units of depth that cannot be or look odd: a line each, with what to write."""

import re
from pathlib import Path

import numpy as np
import pytest

from diffi2i.config.schema import ProtocolConfig
from diffi2i.data.seen import (
    KITTI,
    DepthSeen,
    LabelsSeen,
    impossible,
    shown,
    suspicious,
    unit_of,
    unit_of_predictions,
)
from diffi2i.data.targets import Depth

KEY = "dataset.target.unit"
INDOOR, ROAD = ProtocolConfig(), ProtocolConfig(max_depth=80.0)
RNG = np.random.default_rng(0)
# Metres: a room seen by a depth camera, a road seen by a laser, which hits one pixel in five.
ROOM = np.where(RNG.random((60, 80)) < 0.9, RNG.uniform(0.7, 5.0, (60, 80)), 0)
STREET = np.where(RNG.random((60, 80)) < 0.2, np.exp(RNG.uniform(np.log(3), np.log(80), (60, 80))), 0)


def read_as(metres: np.ndarray, stored: float, unit: float) -> DepthSeen:
    """Files that hold integers of `stored` metres, read with another unit."""
    return DepthSeen().add((np.rint(metres / stored) * unit).astype(np.float32))


def test_depth_is_counted_exactly_but_for_the_median() -> None:
    parts = [ROOM[:20], ROOM[20:]]
    whole = DepthSeen().add(ROOM)
    merged = DepthSeen().add(parts[1]).merge(DepthSeen().add(parts[0]))
    assert whole == merged
    valid = ROOM[ROOM > 0]
    assert (whole.low, whole.high, whole.valid, whole.pixels) == (valid.min(), valid.max(), valid.size, ROOM.size)
    assert whole.middle == pytest.approx(np.median(valid), rel=1e-3)
    assert whole.beyond(3.0) == pytest.approx((valid > 3).mean(), abs=0.01)
    (line,) = whole.lines()
    assert line == f"depth: {shown(valid.min())} / {shown(whole.middle)} / 5 m (min / median / max), " + (
        f"{100 * valid.size / ROOM.size:.1f} % of the pixels are measured"
    )


def test_nothing_measured_is_said_and_is_neither_odd_nor_impossible() -> None:
    nothing = DepthSeen().add(np.zeros((3, 4)))
    assert nothing.lines() == ["depth: none of 12 pixels is measured"]
    assert impossible(nothing, INDOOR, 0.001, KEY) is None
    assert suspicious(nothing, INDOOR, 0.001, KEY) is None


@pytest.mark.parametrize("protocol", [INDOOR, None])
def test_a_room_in_its_own_unit_is_fine(protocol: ProtocolConfig | None) -> None:
    seen = read_as(ROOM, 0.001, 0.001)
    assert impossible(seen, INDOOR, 0.001, KEY) is None
    assert suspicious(seen, protocol, 0.001, KEY) is None


def test_a_road_in_its_own_unit_is_fine() -> None:
    seen = read_as(STREET, KITTI, KITTI)
    assert impossible(seen, ROAD, KITTI, KEY) is None
    assert suspicious(seen, ROAD, KITTI, KEY) is None
    assert suspicious(seen, None, KITTI, KEY) is None


@pytest.mark.parametrize(
    ("metres", "stored", "unit", "protocol"),
    [
        (STREET, 1.0, 0.001, INDOOR),  # metres in uint16, read as millimetres
        (STREET, 1.0, 0.001, ROAD),
        (ROOM, 1.0, 0.001, INDOOR),
        (ROOM, 0.001, 1.0, INDOOR),  # millimetres read as metres
        (ROOM, 0.001, KITTI, INDOOR),
        (STREET, KITTI, 1.0, ROAD),
    ],
)
def test_units_that_cannot_be_are_refused_with_advice_that_works(
    metres: np.ndarray, stored: float, unit: float, protocol: ProtocolConfig
) -> None:
    if (stored, unit) == (0.001, KITTI):
        metres = 5 + metres  # 3.9 times as far: only far rooms are told by the range alone
    line = impossible(read_as(metres, stored, unit), protocol, unit, KEY)
    assert line is not None
    assert "\n" not in line
    assert f"write {KEY}=<metres per stored number>, {unit:.8g} now" in line
    advised = [float(value) for value in re.findall(r"([\d.]+) \(", line.partition("now")[2])]
    assert stored in advised
    for value in advised:
        assert impossible(read_as(metres, stored, value), protocol, value, KEY) is None


def test_files_in_metres_have_no_unit_to_write(tmp_path: Path) -> None:
    assert unit_of(Depth(), [Path("a.npy"), Path("b.NPY")]) is None
    assert unit_of(Depth(), [Path("a.npy"), Path("b.png")]) == 0.001
    line = impossible(read_as(ROOM, 0.001, 1.0), INDOOR, None, KEY)
    assert line is not None
    assert "save the .npy files anew, in metres" in line
    assert KEY not in line


@pytest.mark.parametrize("protocol", [INDOOR, ROAD, None])
def test_kittis_files_read_as_millimetres_are_told(protocol: ProtocolConfig | None) -> None:
    seen = read_as(STREET, KITTI, 0.001)
    assert impossible(seen, protocol or INDOOR, 0.001, KEY) is None  # 0.8 to 20 m: that may be
    line = suspicious(seen, protocol, 0.001, KEY)
    assert line is not None
    assert "as by a laser" in line
    assert "0.00390625 (KITTI's 1/256 m)" in line
    assert "\n" not in line


def test_depths_outside_of_the_protocol_or_far_short_of_it_are_told() -> None:
    beyond = suspicious(DepthSeen().add(2.5 * ROOM), INDOOR, 0.001, KEY)
    assert beyond is not None
    assert "beyond task.protocol.max_depth=10" in beyond
    short = suspicious(DepthSeen().add(ROOM), ROAD, 0.001, KEY)
    assert short is not None
    assert "no depth is beyond 5 m, with task.protocol.max_depth=80" in short


def test_whole_metres_are_told() -> None:
    rounded = DepthSeen().add(np.rint(ROOM))
    line = suspicious(rounded, INDOOR, None, KEY)
    assert line is not None
    assert "whole number of metres" in line
    assert suspicious(rounded, INDOOR, 1.0, KEY) is None  # as it was said


def test_without_a_protocol_a_hand_and_a_kilometre_are_told() -> None:
    near = suspicious(read_as(STREET, 1.0, 0.001), None, 0.001, KEY)
    assert near is not None
    assert "no depth is beyond 0.079 m" in near
    assert "1 (metres) gives a median of 1" in near
    far = suspicious(read_as(ROOM, 0.001, 1.0), None, 1.0, KEY)
    assert far is not None
    assert "half of the depths are beyond 2" in far
    assert "0.001 (millimetres) gives a median of 2" in far


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (1000.0, "near 1000:"),
        (0.001, "near 1/1000:"),
        (3.90625, "near 1000/256:"),
        (0.256, "near 256/1000:"),
        (17.0, "17 times"),
    ],
)
def test_predictions_in_another_unit_are_told(factor: float, words: str) -> None:
    line = unit_of_predictions([0.9 * factor, factor, 1.1 * factor])
    assert line is not None
    assert words in line
    assert "\n" not in line


def test_predictions_that_are_merely_wrong_are_not() -> None:
    assert unit_of_predictions([0.6, 1.0, 1.9]) is None
    assert unit_of_predictions([]) is None


def test_classes_have_shares_the_ignored_and_the_absent() -> None:
    labels = np.array([[0, 0, 0, 2], [2, 255, 255, 0]])
    (line,) = LabelsSeen(4).add(labels).lines()
    assert line == "classes: 0: 50.0 %, 2: 25.0 %; ignored: 25.0 % of the pixels; absent of 4: 1, 3"
    halves = LabelsSeen(4).add(labels[:1]).merge(LabelsSeen(4).add(labels[1:]))
    assert halves == LabelsSeen(4).add(labels)
    assert LabelsSeen(4).lines() == ["classes: no pixel"]


def test_of_many_classes_the_most_frequent_are_shown() -> None:
    seen = LabelsSeen(150)
    for label in range(100):
        seen.add(np.full(label + 1, label))
    (line,) = seen.lines()
    assert line.startswith("classes: 88: 1.8 %, 89: ")
    assert " and 88 rarer; ignored: 0.0 %" in line
    assert line.endswith("absent of 150: 100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111 and 38 more")
