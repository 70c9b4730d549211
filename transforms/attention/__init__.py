"""Kernels of attention: their names, what runs them, and which of them run on this machine."""
