"""Tensors: the networks, the diffusion and its samplers. Nothing here knows files or names of variables."""
