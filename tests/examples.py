"""How Hypothesis looks for examples."""

from hypothesis import settings
from hypothesis import strategies as st

quick = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 2**31)
