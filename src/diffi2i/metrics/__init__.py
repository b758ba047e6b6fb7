"""Scores of restored images and dense predictions, accumulated over a validation set."""
