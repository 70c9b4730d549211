"""What predictors that are transforms have in common: what they predict, for which streams, and how they are set."""

import attrs

from pure.checks import check_streams, choice, stream_names, whole
from pure.composition import Transform
from pure.denoiser import Denoiser

__all__ = ["Extrapolation"]


@attrs.frozen(kw_only=True)
class Extrapolation(Transform):
    """Base of transforms that are their own predictor; a subclass says its `weights`.

    Attributes:
        order: highest derivative, difference or degree, 0 to 3; 0 repeats the last residual.
        on: "residual" extrapolates what the middle blocks add; "hidden" extrapolates their output.
        streams: names of the streams to extrapolate; the others hold. None: those the head reads; "all":
            every stream.

    Raises:
        ValueError: a value is out of range, or a stream has no such name.
    """

    order: int = attrs.field(default=1, validator=whole(0, "the order", most=3))
    on: str = attrs.field(default="residual", validator=choice("residual", "hidden"))
    streams: tuple[str, ...] | str | None = attrs.field(default=None, validator=stream_names)

    @property
    def history(self) -> int:
        """One residual more than the order."""
        return self.order + 1

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Set the predictor."""
        check_streams(self, denoiser)
        return attrs.evolve(denoiser, plan=denoiser.plan.set(predictor=self))
