"""The diffusion process and its samplers, for vectors, latents and pixels alike."""
