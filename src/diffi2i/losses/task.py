"""L_task: the weighted sum of what one task asks of the network's output."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from diffi2i.losses.adversarial import Adversary

Loss = Callable[[Tensor, Mapping[str, Any]], Tensor]


class TaskLoss(nn.Module):
    """The generator's objective, term by term; the sum of the terms is L_task.

    Args:
        terms: name -> loss, a callable `(output, batch) -> scalar`. They are kept in a plain dict: a perceptual
            loss's network is neither saved, nor copied, nor counted.
        weights: name -> factor, 1 where not named.
        adversary: its own terms, weighted by itself, join the others. Its discriminator is a submodule and has to be
            kept out of the generator's optimiser.

    Raises `ValueError` for a weight without a term.
    """

    def __init__(
        self,
        terms: Mapping[str, Loss],
        weights: Mapping[str, float] | None = None,
        adversary: Adversary | None = None,
    ) -> None:
        super().__init__()
        self.terms = dict(terms.items())
        weights = weights or {}
        unknown = sorted(set(weights) - set(self.terms))
        if unknown:
            raise ValueError(f"weights of terms that are not there: {unknown}; the terms are {sorted(self.terms)}")
        self.weights = {name: float(weights.get(name, 1)) for name in self.terms}
        self.adversary = adversary

    def forward(self, output: Tensor, batch: Mapping[str, Any], adversarial: bool = True) -> dict[str, Tensor]:
        """Weighted scalars in float32; `output` and `batch` as the terms want them.

        The adversary's are among them unless `adversarial` is False: before the discriminator joins.
        """
        terms = {name: self.weights[name] * loss(output, batch) for name, loss in self.terms.items()}
        if self.adversary is not None and adversarial:
            terms |= self.adversary.generator_terms(output, batch)
        return terms
