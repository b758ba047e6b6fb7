"""The two LightningModules: the whole training step of each stage on one screen."""
