"""A diffusers pipeline accelerated as it is."""
