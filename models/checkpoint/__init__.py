"""Checkpoints: locating, describing, reading and loading them."""
