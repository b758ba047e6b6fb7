"""Methods: each a LightningModule with its training objective and its prediction; see `method.Method`."""
