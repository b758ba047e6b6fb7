"""Tests that train, or start processes: all are slow."""
