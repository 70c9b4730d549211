"""A rule of one's own: compute when the steps skipped since the last computed one have cost an error budget.

python examples/own_rule.py --budget 0.4
"""

import argparse

import attrs

import pure
from pure import Answer
from pure.models import embedded, load_pipeline
from pure.plan import Probe, Span
from pure.rules import Threshold


@attrs.frozen
class Budget(pure.Rule):
    """Skip while the accepted changes stay below a budget, which shrinks as the noise does."""

    name = "budget"
    before = Threshold
    budget: float

    def answer(self, where: pure.Where, memory: pure.Memory) -> Answer:
        return Answer.COMPUTE if where.fraction < 0.15 else Answer.DEFER

    def judge(self, change: float, where: pure.Where, memory: pure.Memory) -> Answer:
        left = self.budget * (0.5 + where.sigma) - memory.accumulated
        return Answer.SKIP if change < left else Answer.COMPUTE


@attrs.frozen
class budget(pure.Transform):
    """Run the first block always, and decide the others by its change."""

    amount: float

    def edit(self, denoiser: pure.Denoiser) -> pure.Denoiser:
        plan = denoiser.plan.set(span=Span(front=1), probe=Probe()).add(Budget(self.amount))
        return attrs.evolve(denoiser, plan=plan)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A cache with an error budget.")
    parser.add_argument("--budget", type=float, default=0.4)
    options = parser.parse_args()
    made = load_pipeline(embedded()).generate("a red apple", transform=budget(options.budget), steps=28)
    for info in made.infos:
        (decision,) = info.decisions
        change = "" if decision.change is None else f"{decision.change:.3f}"
        print(f"{decision.index:2d} {'computed' if decision.computed else 'skipped':8} {change:>6} {decision.reason}")
