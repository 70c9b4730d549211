"""What is wrong with a checkpoint."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says what is wrong with which file, and what helps."""
