"""Where the checkout lies, and the data beside it that not every machine has."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
