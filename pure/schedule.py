r"""Schedules: which noise levels a run visits, and the timesteps that the model sees.

A schedule is a value of its own, and every solver takes every schedule.
"""

import math

import attrs
import torch

from pure.checks import MOST, choice, flag, number, optional, refuse, shown, whole
from pure.step import Step, check_count

SPACINGS = ("count", "open", "train", "whole")
TIME_SHIFTS = ("exponential", "linear")
# Where a shifted level is as high as 1 the log of its signal is infinite; diffusers' UniPC backs off by this.
BACK_OFF = 1e-6


@attrs.frozen(kw_only=True)
class Schedule:
    r"""Noise levels of rectified flow: evenly spaced values, shifted, and a final 0.

    They are those of diffusers' `FlowMatchEulerDiscreteScheduler`, or with `spacing="whole"` of
    `UniPCMultistepScheduler`, as its pipelines call them, to the last bit.

    Attributes:
        shift: static shift s, $\sigma \leftarrow s\sigma / (1 + (s - 1)\sigma)$, used when `dynamic` is false.
        dynamic: shift by the number of image tokens.
        base_shift, max_shift: exponent at `base_tokens` and at `max_tokens`, linear between.
        time_shift: "exponential" or "linear".
        empirical: take the exponent from FLUX.2's fit to tokens and steps instead.
        terminal: stretch the levels so that the last one before 0 is this; None does not.
        spacing: what is evenly spaced before the shift: "count", 1 to 1/count (FLUX); "open", 1 to
            0 without the end (HunyuanVideo; equal but for rounding); "train", the ends of the
            training schedule, which are shifted already (Wan); "whole", 1 to 1/train_timesteps
            without the end, with timesteps cut off to whole numbers (UniPC).
        train_timesteps: the model's time unit.
        unit: timesteps are training steps divided by it: 1000 gives sigma, as FLUX takes
            it, 1 gives 0 to 1000, as Wan takes it.

    Raises:
        ValueError: a value is out of range.

    Reference: Esser et al., arXiv:2403.03206, section 5.3.2 (the shift).

    >>> [round(float(level), 4) for level in Schedule(shift=3.0).sigmas(2)]
    [1.0, 0.75, 0.0]
    """

    shift: float = attrs.field(default=1.0, validator=number(0.0, "the shift", above=True))
    dynamic: bool = attrs.field(default=False, validator=flag)
    base_shift: float = attrs.field(default=0.5, validator=number(-math.inf, "the exponent at base_tokens"))
    max_shift: float = attrs.field(default=1.15, validator=number(-math.inf, "the exponent at max_tokens"))
    base_tokens: int = attrs.field(default=256, validator=whole(0, "the number of tokens"))
    max_tokens: int = attrs.field(default=4096, validator=whole(1, "the number of tokens"))
    time_shift: str = attrs.field(default="exponential", validator=choice(*TIME_SHIFTS))
    empirical: bool = attrs.field(default=False, validator=flag)
    terminal: float | None = attrs.field(default=None, validator=optional(number(0.0, "a noise level", most=1.0)))
    spacing: str = attrs.field(default="count", validator=choice(*SPACINGS))
    train_timesteps: int = attrs.field(default=1000, validator=whole(1, "the number of training steps"))
    unit: int = attrs.field(default=1000, validator=whole(1, "the unit of timesteps"))

    def __attrs_post_init__(self) -> None:
        if self.terminal == 1:
            raise refuse(self, "terminal", self.terminal, "a noise level of at least 0 and below 1 is needed")
        if self.base_tokens == self.max_tokens:
            raise refuse(self, "max_tokens", self.max_tokens, "base_tokens and max_tokens must differ")

    def __call__(self, count: int, tokens: int = 1, dtype: torch.dtype = torch.float32) -> tuple[Step, ...]:
        """Return the `count` steps of an image of `tokens` tokens.

        Noise levels are fp32 for every model. Timesteps are rounded to its `dtype`, where diffusers
        rounds: in units of training steps; whole ones are not rounded.

        Raises:
            ValueError: `count` or `tokens` is out of range.
            TypeError: `dtype` is no type of floating-point numbers.
        """
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(f"timesteps have a floating-point type, such as torch.float32, got {shown(dtype)}")
        levels = self._levels(count, tokens)
        sigmas = _with_end(levels)
        steps = levels * self.train_timesteps
        timesteps = steps.trunc().float() if self.spacing == "whole" else (sigmas * self.train_timesteps).to(dtype)
        timesteps = timesteps / self.unit
        return tuple(
            Step(index=i, count=count, timestep=timesteps[i], sigma=sigmas[i], sigma_next=sigmas[i + 1])
            for i in range(count)
        )

    def sigmas(self, count: int, tokens: int = 1) -> torch.Tensor:
        """Return count + 1 noise levels from high to 0, fp32.

        Raises:
            ValueError: `count` or `tokens` is out of range.
        """
        return _with_end(self._levels(count, tokens))

    def _levels(self, count: int, tokens: int) -> torch.Tensor:
        check_count(count)
        _check_tokens(tokens)
        # In this precision and this order of operations the values are diffusers' to the last bit.
        even = self._even(count)
        if self.dynamic:
            factor = torch.tensor(self._factor(count, tokens), dtype=even.dtype)
            levels = factor / (factor + (1.0 / even - 1))
        else:
            levels = self.shift * even / (1 + (self.shift - 1) * even)
        if self.terminal and count > 1:  # a single level is the first and stays 1; diffusers divides 0 by 0
            rest = 1 - levels
            levels = 1 - rest / (rest[-1] / (1 - self.terminal))
        if self.spacing == "whole" and abs(float(levels[0]) - 1) < BACK_OFF:
            levels = torch.cat([levels[:1] - BACK_OFF, levels[1:]])
        return levels

    def _factor(self, count: int, tokens: int) -> float:
        exponent = self.exponent(count, tokens)
        try:
            return math.exp(exponent) if self.time_shift == "exponential" else exponent
        except OverflowError:
            raise ValueError(f"{tokens} tokens are too many: their shift is no finite number") from None

    def _even(self, count: int) -> torch.Tensor:
        if self.spacing == "train":
            return torch.linspace(*self._ends(), count, dtype=torch.float64) / self.train_timesteps
        if self.spacing == "open":
            return torch.linspace(1.0, 0.0, count + 1, dtype=torch.float64)[:-1].to(torch.float32)
        if self.spacing == "whole":
            gap = (1 / self.train_timesteps - 1) / count
            return torch.arange(count, dtype=torch.float64) * gap + 1
        return torch.linspace(1.0, 1.0 / count, count, dtype=torch.float64).to(torch.float32)

    def _ends(self) -> tuple[float, float]:
        """Return the highest and the lowest level of the training schedule, in training steps."""
        last = torch.tensor([1.0, 1.0 / self.train_timesteps])
        if not self.dynamic:
            last = self.shift * last / (1 + (self.shift - 1) * last)
        highest, lowest = last.tolist()
        return highest * self.train_timesteps, lowest * self.train_timesteps

    def exponent(self, count: int, tokens: int) -> float:
        """Return the exponent of the dynamic shift.

        Raises:
            ValueError: `count` or `tokens` is out of range.
        """
        check_count(count)
        _check_tokens(tokens)
        if self.empirical:
            # Two lines fitted at 10 and at 200 steps; between and beyond them, linear in the number of steps.
            at_200 = 0.00016927 * tokens + 0.45666666
            at_10 = 8.73809524e-05 * tokens + 1.89833333
            slope = (at_200 - at_10) / 190.0
            return at_200 if tokens > 4300 else slope * count + (at_200 - 200.0 * slope)
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return tokens * slope + (self.base_shift - slope * self.base_tokens)


def _check_tokens(tokens: object) -> None:
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 1 <= tokens <= MOST:
        raise ValueError(f"a sample has 1 to {MOST} tokens, a whole number; got {shown(tokens)}")


def _with_end(levels: torch.Tensor) -> torch.Tensor:
    return torch.cat([levels.to(torch.float32), torch.zeros(1)])
