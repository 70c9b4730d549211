r"""UniPC: a multistep predictor with a corrector, for rectified flow.

With $\alpha = 1 - \sigma$, $\lambda = \log\alpha - \log\sigma$ and $x_0 = x - \sigma v$ the estimate of
the clean sample, a step from $s$ to $t$, $h = \lambda_t - \lambda_s$, is

$$x_t = \frac{\sigma_t}{\sigma_s} x - \alpha_t (e^{-h} - 1) (x_0 + \textstyle\sum_i \rho_i D_i)$$

with $D_i$ the slopes of $x_0$ towards estimates of other steps, per unit of $h$. The predictor knows
earlier steps only. The corrector repeats the step once the estimate at $t$ is known, before that
estimate is used for the next step, and costs no further call of the model.

Shapes: B samples.

Reference: Zhao et al., arXiv:2302.04867, equations 3, 9 and 10, with $B(h) = e^{-h} - 1$ ("bh2").
"""

import attrs
import torch

from pure.schedule import BACK_OFF, Schedule
from pure.solver import SCHEDULE, check_prediction, levels_of
from pure.step import Step, check_latents
from pure.tree import join, state, take


@state
class Carry:
    """What UniPC remembers: same tree, shapes and strides from `init` on."""

    latents: torch.Tensor  # (B, ...) after the last step
    corrected: torch.Tensor  # (B, ...) the latents that step began with, corrected
    clean: torch.Tensor  # (B, ...) estimate of the clean sample at that step
    older: torch.Tensor  # (B, ...) and at the one before
    sigmas: torch.Tensor  # (B, 2) fp32 on the CPU: noise levels of these two steps
    taken: torch.Tensor  # (B,) int64 on the CPU: steps taken so far


@attrs.frozen
class UniPC:
    """UniPC of order 2, as diffusers' `UniPCMultistepScheduler` runs for Wan.

    That is with `prediction_type="flow_prediction"`, `use_flow_sigmas`, `predict_x0`, `solver_order=2`,
    `solver_type="bh2"`, `lower_order_final` and a final noise level of zero: the first and the last step
    are of order 1, and every step but the first begins with a correction. Latents are equal to the
    scheduler's to the last bit, in every type. Each sample of a batch has a history of its own.

    Attributes:
        schedule: which noise levels are visited; called, it returns the steps. By default UniPC's own,
            without a shift. For videos Wan shifts by 3 at 480 rows and by 5 at 720.
    """

    schedule: Schedule = attrs.field(factory=lambda: Schedule(spacing="whole", unit=1), validator=SCHEDULE)

    def init(self, latents: torch.Tensor) -> Carry:
        """Return the carry before the first step.

        Raises:
            TypeError: these are no latents.
        """
        check_latents(latents)
        batch = latents.shape[0]
        return Carry(
            latents=latents,
            corrected=torch.zeros_like(latents),
            clean=torch.zeros_like(latents),
            older=torch.zeros_like(latents),
            sigmas=torch.zeros(batch, 2),
            taken=torch.zeros(batch, dtype=torch.int64),
        )

    def step(self, carry: Carry, prediction: torch.Tensor, step: Step) -> Carry:
        """Return the carry after a step from `step.sigma` to `step.sigma_next`, given the predicted velocity.

        Raises:
            ValueError: the step has no noise levels, or the prediction is not shaped like the latents.
            TypeError: an argument is of another kind.
        """
        check_prediction(self.latents(carry), prediction)
        batch = prediction.shape[0]
        # Of another schedule the first level may be 1, where the log of the signal is infinite.
        now, after = (level.expand(batch).cpu().clamp(max=1 - BACK_OFF) for level in levels_of(step))
        places = torch.cat([carry.sigmas, carry.taken.unsqueeze(1), now.unsqueeze(1), after.unsqueeze(1)], dim=1)
        if (places == places[0]).all():
            return _advance(carry, prediction, now[0], after[0])
        # Samples that stand at different steps are stepped one by one, so that each gets the bits it has alone.
        rows = torch.arange(batch).split(1)
        parts = [_advance(take(carry, row), take(prediction, row), now[row[0]], after[row[0]]) for row in rows]
        return join(*parts)

    def latents(self, carry: Carry) -> torch.Tensor:
        """Return the latents.

        Raises:
            TypeError: this is no carry of UniPC.
        """
        if not isinstance(carry, Carry):
            raise TypeError(f"the carry of UniPC is what its init or step returned, got {type(carry).__name__}")
        return carry.latents


def _advance(carry: Carry, prediction: torch.Tensor, now: torch.Tensor, after: torch.Tensor) -> Carry:
    """Correct the last step and take the next, of samples that all stand at noise level `now`."""
    taken, (last, before) = int(carry.taken[0]), carry.sigmas[0]
    x, clean = carry.latents, carry.latents - now * prediction
    if taken:
        slope = _correction(carry, clean, last, now, before if taken > 1 else None)
        x = _moved(carry.corrected, carry.clean, last, now, slope)
    slope = None
    if taken and after > 0:  # the last step is of order 1, as the first
        # For order 2 the reference takes 1/2 instead of solving for the weight.
        slope = 0.5 * ((carry.clean - clean) / _ratio(last, now, after))
    return Carry(
        latents=_moved(x, clean, now, after, slope),
        corrected=x,
        clean=clean,
        older=carry.clean,
        sigmas=torch.stack([now, last]).expand(len(x), 2).contiguous(),
        taken=carry.taken + 1,
    )


def _moved(
    x: torch.Tensor, clean: torch.Tensor, s: torch.Tensor, t: torch.Tensor, slope: torch.Tensor | None
) -> torch.Tensor:
    """Step x from level s to level t, with the estimate `clean` at s and the weighted slopes."""
    alpha, growth = 1 - t, torch.expm1(-_distance(s, t))
    out = t / s * x - alpha * growth * clean
    return (out if slope is None else out - alpha * growth * slope).to(x.dtype)


def _correction(
    carry: Carry, new: torch.Tensor, s: torch.Tensor, t: torch.Tensor, before: torch.Tensor | None
) -> torch.Tensor:
    """Return the weighted slopes of the step from s to t, now that the estimate `new` at t is known."""
    if before is None:
        return 0.5 * (new - carry.clean)
    h, ratio = _distance(s, t), _ratio(before, s, t)
    growth, first = torch.expm1(-h), torch.expm1(-h) / -h - 1
    second = first / -h - 1 / 2
    ratios, wanted = torch.stack([ratio, torch.ones_like(h)]), torch.stack([first / growth, second * 2 / growth])
    weights = torch.linalg.solve(torch.stack([ratios**0, ratios]), wanted).to(new.device, carry.corrected.dtype)
    return weights[0] * ((carry.older - carry.clean) / ratio) + weights[1] * (new - carry.clean)


def _ratio(known: torch.Tensor, s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Return where the level `known` lies, in units of the step from s to t."""
    return _distance(s, known) / _distance(s, t)


def _distance(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Return lambda(t) - lambda(s)."""
    return _half_log_snr(t) - _half_log_snr(s)


def _half_log_snr(sigma: torch.Tensor) -> torch.Tensor:
    return torch.log(1 - sigma) - torch.log(sigma)
