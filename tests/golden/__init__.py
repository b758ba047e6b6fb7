"""Kept results, reference packages and the paper's numbers."""
