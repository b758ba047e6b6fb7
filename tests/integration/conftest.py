"""All tests of this folder are slow, and what Lightning and others warn of in so small runs is no news."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"))
