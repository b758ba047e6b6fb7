"""Other authors' checkpoints: a module for each source, with `convert`; see `commands.imports`."""
