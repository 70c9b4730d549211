"""Tuning: from recorded runs to plans that say which steps compute, and with which weights the others are filled in."""

from pure.engine.tuning.budget import Budget
from pure.engine.tuning.plan import TunedPlan
from pure.engine.tuning.tuning import Tuning, tune

__all__ = ["Budget", "TunedPlan", "Tuning", "tune"]
