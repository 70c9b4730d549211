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
    from pure.models.pipeline import Model, Pipeline
    from pure.transforms import Layer, Quantization

Note = Callable[[str, str], None]

__all__ = ["Quantizer", "quantised", "quantizer"]


@attrs.frozen(kw_only=True, eq=False)
class Quantizer:
    """What turns parameters into quantised ones and says so; of several processes each does it to its part.

    Attributes:
        denoiser: whose parameters they are.
        settings: which weights become what; of experts a mapping.
        verbose: whether every layer is listed.
        note: says it, with "note" or "warning".
    """

    denoiser: Model
    settings: Quantization | Mapping[str, Quantization]
    verbose: bool
    note: Note

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
        self.note(summary(layers, nbytes(params), nbytes(quantised)), "note")
        for layer in layers if self.verbose else ():
            self.note(line(layer), "note")
        return quantised


def quantizer(effective: Effective, denoiser: Model, note: Note) -> Quantizer | None:
    """Return what quantises a denoiser's parameters as a configuration says; None if it says nothing of it.

    Raises:
        Misuse: it is said of the second expert alone, and there is one.
    """
    asked = quantizations(effective)
    if not asked or effective.quantize is None:
        return None
    components = ("transformer", "transformer_2")
    if isinstance(denoiser, pure.Experts):
        names = zip(components, denoiser.denoisers, strict=True)
        settings: Any = {name: asked[component] for component, name in names if component in asked}
    elif components[0] in asked:
        settings = asked[components[0]]
    else:
        raise Misuse(f"quantize_config: the model has no {components[1]}; name {components[0]}")
    return Quantizer(denoiser=denoiser, settings=settings, verbose=effective.quantize.verbose, note=note)


def quantised(pipeline: Pipeline, effective: Effective, note: Note) -> Pipeline:
    """Return the pipeline with its parameters quantised as a configuration says, or as it is.

    Raises:
        Misuse: see `quantizer` and `Quantizer`.
    """
    quantize = quantizer(effective, pipeline.denoiser, note)
    return pipeline if quantize is None else attrs.evolve(pipeline, params=quantize(pipeline.params))


def summary(layers: tuple[Layer, ...], before: int, after: int) -> str:
    """Say in one line how many layers became what, why the others did not, and what that saves.

    >>> from pure.transforms import Layer
    >>> layers = Layer("", "blocks.0.q", "int8_weight_only", ""), Layer("", "out", "", "it is outside of the blocks")
    >>> summary(layers, 4_000_000, 1_500_000)
    'quantised 1 of 2 layers (int8_weight_only: 1): 4.0 MB of weights are 1.5 MB; 1 stays: it is outside of the blocks'
    """
    kinds = Counter(layer.kind for layer in layers if layer.kind)
    stay = Counter(layer.reason for layer in layers if not layer.kind)
    became = ", ".join(f"{kind}: {count}" for kind, count in kinds.items())
    rest = "".join(f"; {n} {'stays' if n == 1 else 'stay'}: {reason}" for reason, n in stay.most_common())
    sizes = f"{before / 1e6:.1f} MB of weights are {after / 1e6:.1f} MB"
    return f"quantised {kinds.total()} of {len(layers)} layers ({became}): {sizes}{rest}"


def line(layer: Layer) -> str:
    """Say of one layer what became of it."""
    name = f"{layer.expert}: {layer.name}" if layer.expert else layer.name
    return f"{name}: {layer.kind or 'stays'}" + (f" ({layer.reason})" if layer.reason else "")
