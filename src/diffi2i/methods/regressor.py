"""One network from the input to the prediction: NAFNet, Restormer, SwinIR, Real-ESRGAN's generator, LaMa."""

import torch
from torch import Tensor, nn

from diffi2i.config.schema import Config
from diffi2i.methods.batch import Batch
from diffi2i.methods.method import Guided, Method
from diffi2i.methods.noise import Noise
from diffi2i.models.diffi2i import build_network


class Regressor(Method):
    """Trains `model.network` on L_task."""

    def __init__(self, config: Config, init: "Regressor | None" = None) -> None:
        super().__init__(config)
        self.network = build_network(config.model, prior=False)
        if init is not None:
            self.load_state_dict(init.state_dict())
        self.to(memory_format=torch.channels_last)

    def objective(self, batch: Batch, rng: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        return {}, self.output(batch)

    def guided(self, batch: Batch, noise: Noise) -> Guided:
        return Guided(self.network, self.seen(batch), None)

    def predict(self, batch: Batch, noise: Noise) -> Tensor:
        return self.output(batch)

    def output(self, batch: Batch) -> Tensor:
        output: Tensor = self.network(self.seen(batch))
        return output.float()

    def parts(self) -> dict[str, nn.Module]:
        return {"network": self.network}
