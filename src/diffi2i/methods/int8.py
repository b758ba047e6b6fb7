"""Post-training quantisation: a finished run whose weights are rounded to 8 bits. Nothing is trained."""

from dataclasses import replace

from diffi2i.config.schema import Config
from diffi2i.errors import UserError
from diffi2i.methods.method import Method


class InInt8(Method):
    """Stands for the method of the run that `init` is, with that run's model, its weights as of `models.int8`."""

    @classmethod
    def settled(cls, config: Config, init: Config | None) -> Config:
        """Raises `UserError`: no run to start from."""
        if init is None:
            raise UserError(
                f"method={config.method['name']} needs a finished run: write method.init=<its run directory>"
            )
        method = init.method | {"init": config.method["init"], "int8": True}
        return replace(config, method=method, model=init.model, train=replace(init.train, steps=0))
