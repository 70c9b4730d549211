"""Models against diffusers, and checkpoints good and bad."""
