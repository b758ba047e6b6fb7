"""Scores of restored images and dense predictions, accumulated over a validation set."""

from diffi2i.config.schema import SET_METRICS

LOWER_IS_BETTER = (
    "lpips_alex",
    "lpips_vgg",
    "dists",
    *SET_METRICS,
    "abs_rel",
    "rmse",
    "log10",
    "silog",
    "rmse_log",
)

SET_LEVEL = ("miou", "pixel_accuracy", "mean_accuracy", *SET_METRICS)
"""Scores of a set as a whole: the mean of its images' scores, where they have one, is another number."""

FEW_IMAGES = 2048
"""Distances between sets of features are biased where the images are fewer than Inception's features."""
