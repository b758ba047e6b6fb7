"""`make chaos` and `make fuzz`, a few of each."""

from collections import Counter

from tests import chaos, fuzz


def test_a_harmed_training_gives_the_same_in_the_end_or_says_why_not() -> None:
    faults = ["killed (SIGKILL)", "killed, then files damaged", "no room for files", "folder deleted"]
    found = chaos.trials(len(faults), 1, ["resshift"], faults)
    total = sum(found.values(), Counter[str]())
    assert total["survived"] >= 2
    assert total["survived"] + total["refused"] == len(faults)


def test_generated_input_is_taken_or_refused_in_one_line() -> None:
    found = fuzz.trials(10, seed=3)
    assert {kind: seen.total() for kind, seen in found.items()} == {
        "command line": 10,
        "training": 1,
        "image": 100,
        "record": 100,
        "checkpoint": 10,
    }
    assert all(seen["refused"] for kind, seen in found.items() if kind != "training")
    assert not any(seen["fault"] for seen in found.values())
