"""Objectives, testable without a network."""
