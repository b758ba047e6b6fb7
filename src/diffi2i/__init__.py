"""DiffI2I: efficient diffusion on a compact prior for image-to-image translation (Xia et al., TPAMI)."""

__version__ = "0.2.0"
