"""From files on disk to sample dicts: sources, degradations, masks, datasets and the one DataModule."""
