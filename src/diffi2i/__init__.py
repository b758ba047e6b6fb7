"""DiffI2I: efficient diffusion on a compact prior for image-to-image translation (Xia et al., TPAMI).

restorer = diffi2i.load("runs/s2")
restorer(image)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffi2i.restorer import Restorer, load

__all__ = ["Restorer", "load"]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    # Only when asked for: `diffi2i --help` needs no torch.
    if name in __all__:
        from diffi2i import restorer

        return getattr(restorer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
