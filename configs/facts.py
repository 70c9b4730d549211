"""What is known of a run before it starts."""

import attrs

__all__ = ["Facts"]


@attrs.frozen(kw_only=True)
class Facts:
    """What is known of the run before it starts; None: not known yet.

    Attributes:
        processes: number of processes.
        sequence: how many of them share the sequence, ulysses x ring, where that is asked for.
        device: type of the device, such as "cpu" or "cuda".
        steps: number of steps of the run (of a model with one expert).
        blocks: number of blocks of the denoiser.
        experts: number of experts of the model.
    """

    processes: int = 1
    sequence: int | None = None
    device: str = "cpu"
    steps: int | None = None
    blocks: int | None = None
    experts: int | None = None
