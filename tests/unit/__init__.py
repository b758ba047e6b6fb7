"""Tests of a part, which train nothing."""
