"""DiffIR (Xia et al. 2023): the two stages of DiffI2I, its successor, with the DIRformer as the network.

What else differs stands in `conf/method/diffir_s1.yaml` and `diffir_s2.yaml`: the betas, the LeakyReLUs of the models.
"""

from diffi2i.methods.diffi2i_s1 import DiffI2IS1
from diffi2i.methods.diffi2i_s2 import DiffI2IS2


class DiffIRS1(DiffI2IS1):
    """Trains CPEN_S1 and the DIRformer on L_task."""

    networks = ("DIRformer",)
    family = "DiffIR, "


class DiffIRS2(DiffI2IS2):
    """Trains CPEN_S2, the denoiser and the DIRformer on L_task + L_diff."""

    networks = ("DIRformer",)
    family = "DiffIR, "
