"""Quantising what was loaded, and saying what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

import pure
from pure.configs import Effective, quantizations
from pure.engine.errors import Misuse

if TYPE_CHECKING:
    from pure.models.pipeline import AnyDenoiser
    from pure.transforms import Quantization, QuantizedLayer

Say = Callable[[str, str], None]
"""Prints a text as a "note" or a "warning"."""

__all__ = ["Quantizer", "Say", "quantizer"]


@attrs.frozen(kw_only=True, eq=False)
class Quantizer:
    """Turns parameters into quantised ones and says what was done; each of several processes quantises its part.

    Attributes:
        denoiser: whose parameters they are.
        settings: which weights become what; of experts a mapping.
        verbose: whether every layer is listed.
        say: prints a note.
    """

    denoiser: AnyDenoiser
    settings: Quantization | Mapping[str, Quantization]
    verbose: bool
    say: Say

    def __call__(self, params: Any) -> Any:
        """Return the quantised parameters.

        Raises:
            Misuse: torchao is not installed, or there is nothing that could be quantised so.
        """
        from pure.transforms import nbytes, quantize, survey

        try:
            quantised = quantize(params, self.denoiser, self.settings)
        except (ValueError, ModuleNotFoundError) as error:
            raise Misuse(f"quantize_config: {error}") from error
        layers = survey(params, self.denoiser, self.settings)
        self.say(summary(layers, nbytes(params), nbytes(quantised)), "note")
        for layer in layers if self.verbose else ():
            self.say(line(layer), "note")
        return quantised


def quantizer(effective: Effective, denoiser: AnyDenoiser, say: Say) -> Quantizer | None:
    """Return what quantises a denoiser's parameters as a configuration says; None where it says nothing.

    Raises:
        Misuse: only the second expert is to be quantised, and there is one expert.
    """
    chosen = quantizations(effective)
    if not chosen or effective.quantize is None:
        return None
    components = ("transformer", "transformer_2")
    if isinstance(denoiser, pure.Experts):
        names = zip(components, denoiser.denoisers, strict=True)
        settings: Any = {name: chosen[component] for component, name in names if component in chosen}
    elif components[0] in chosen:
        settings = chosen[components[0]]
    else:
        raise Misuse(f"quantize_config: the model has no {components[1]}; name {components[0]}")
    return Quantizer(denoiser=denoiser, settings=settings, verbose=effective.quantize.verbose, say=say)


def summary(layers: tuple[QuantizedLayer, ...], before: int, after: int) -> str:
    """Say in one line how many layers became what, why the others did not, and what that saves.

    >>> from pure.transforms import QuantizedLayer
    >>> one = QuantizedLayer("", "blocks.0.q", "int8_weight_only", "")
    >>> layers = one, QuantizedLayer("", "out", "", "it is outside of the blocks")
    >>> summary(layers, 4_000_000, 1_500_000)
    'quantised 1 of 2 layers (int8_weight_only: 1): 4.0 MB of weights are 1.5 MB; 1 stays: it is outside of the blocks'
    """
    kinds = Counter(layer.kind for layer in layers if layer.kind)
    stay = Counter(layer.reason for layer in layers if not layer.kind)
    became = ", ".join(f"{kind}: {count}" for kind, count in kinds.items())
    rest = "".join(f"; {n} {'stays' if n == 1 else 'stay'}: {reason}" for reason, n in stay.most_common())
    sizes = f"{before / 1e6:.1f} MB of weights are {after / 1e6:.1f} MB"
    return f"quantised {kinds.total()} of {len(layers)} layers ({became}): {sizes}{rest}"


def line(layer: QuantizedLayer) -> str:
    """Say of one layer what became of it."""
    name = f"{layer.expert}: {layer.name}" if layer.expert else layer.name
    return f"{name}: {layer.kind or 'stays'}" + (f" ({layer.reason})" if layer.reason else "")
