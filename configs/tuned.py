"""What files of tuned plans hold: a table of weights, and what the plan was made for; the kinds that read them."""

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from pure.configs.kinds import Real, Text, ValueKind, Whole, Wrong, show
from pure.configs.report import did_you_mean

__all__ = ["Rows", "Tuned", "TunedFor"]


def _key(kind: ValueKind) -> Any:
    return attrs.field(default=None, metadata={"kind": kind})


@attrs.frozen(kw_only=True)
class TunedFor:
    """What a tuned plan was made for, and how near it came; None: not known.

    Attributes:
        model: fingerprint of the weights.
        steps: of the run.
        height: in pixels.
        width: in pixels.
        frames: of a video; 1 of an image.
        guidance: scale of classifier-free guidance; None: none.
        solver: the solver with its schedule.
        computed: steps that are computed.
        psnr: mean over held-out prompts against runs without a cache, in dB.
        worst_psnr: mean of the worst tenth of them, in dB.
        prompts: number of held-out prompts.
    """

    model: str | None = _key(Text())
    steps: int | None = _key(Whole(1))
    height: int | None = _key(Whole(1))
    width: int | None = _key(Whole(1))
    frames: int | None = _key(Whole(1))
    guidance: float | None = _key(Real())
    solver: str | None = _key(Text())
    computed: int | None = _key(Whole(1))
    psnr: float | None = _key(Real())
    worst_psnr: float | None = _key(Real())
    prompts: int | None = _key(Whole(1))

    def plain(self) -> dict[str, Any]:
        """Return what is known, as a document writes it."""
        return {name: value for name, value in attrs.asdict(self).items() if value is not None}


@attrs.frozen
class Rows(ValueKind):
    """A table of weights: rows of history, target and weights, as `pure.transforms.calibrated` takes them."""

    wording: ClassVar[str] = "a list of [history, target, weights], such as [[[6, 4], 7, [1.4, -0.4]]]"

    def parse(self, value: Any) -> tuple:
        """Check every row."""
        from pure.transforms import calibrated  # here: other kinds need no torch

        if not isinstance(value, list | tuple):
            raise Wrong
        try:
            return calibrated(table=value).table
        except ValueError as error:
            raise Wrong(str(error).partition(": ")[2]) from error


@attrs.frozen
class Tuned(ValueKind):
    """A `TunedFor` as a mapping."""

    wording: ClassVar[str] = f"a mapping with some of {', '.join(attrs.fields_dict(TunedFor))}"

    def parse(self, value: Any) -> TunedFor:
        """Check every key and its value."""
        if not isinstance(value, Mapping):
            raise Wrong
        fields = attrs.fields_dict(TunedFor)
        if unknown := [key for key in value if key not in fields]:
            raise Wrong(did_you_mean(unknown[0], fields), f"an unknown key, {show(unknown[0])}")
        found = {}
        for name, given in value.items():
            kind = fields[name].metadata["kind"]
            try:
                found[name] = None if given is None else kind.parse(given)
            except Wrong as error:
                hint = f"{name} is {kind.allowed}" + (f": {error}" if str(error) else "")
                raise Wrong(hint, f"{show(given)} for its key {name}") from error
        return TunedFor(**found)
