"""Meshes, and transforms that run one denoiser on many ranks."""
