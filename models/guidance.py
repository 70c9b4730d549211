"""The guidance of a denoiser, or of every expert; and whether a transformer has it as an input."""

from collections.abc import Mapping
from typing import Any

import attrs
import torch

from pure import Denoiser, Experts, Guidance
from pure.checks import check_argument
from pure.experts import first_of


def guidance_of(denoiser: Denoiser | Experts) -> Guidance | None:
    """Return the guidance of a denoiser, or of the first expert.

    Raises:
        TypeError: this is no denoiser.
    """
    check_argument(denoiser, (Denoiser, Experts), "what is guided is a Denoiser or Experts, such as pipeline.denoiser")
    return first_of(denoiser).guidance


def with_guidance(denoiser: Denoiser | Experts, guidance: Guidance | Mapping[str, Guidance]) -> Denoiser | Experts:
    """Return the denoiser guided so; experts all alike, or each as a mapping says."""
    if isinstance(denoiser, Experts):
        each = guidance if isinstance(guidance, Mapping) else dict.fromkeys(denoiser.denoisers, guidance)
        return Experts({name: attrs.evolve(one, guidance=each[name]) for name, one in denoiser.denoisers.items()})
    assert isinstance(guidance, Guidance)
    return attrs.evolve(denoiser, guidance=guidance)


def embeds_guidance(params: Mapping[str, Any]) -> bool:
    """Whether a transformer with these parameters, or an expert of several, embeds a guidance scale."""
    return any(
        embeds_guidance(each) if isinstance(each, Mapping) else name.endswith("guidance_embedder.linear_1.weight")
        for name, each in params.items()
    )


def embedded_scales(params: Mapping[str, torch.Tensor], scale: float | None, rows: int) -> torch.Tensor | None:
    """Return the guidance scale of each of `rows` samples, (rows,), or None where the transformer embeds none."""
    device = next(iter(params.values())).device
    return torch.full((rows,), scale or 0.0, device=device) if embeds_guidance(params) else None


def unread(cfg: str, params: Mapping[str, torch.Tensor], scale: float | None, true_cfg: float | None) -> list[str]:
    """Return a sentence on every scale that neither guides nor is embedded, whatever else a request says.

    Args:
        cfg: the option that scales classifier-free guidance, "" where there is none.
        params: of the transformer.
        scale: `guidance_scale`, if it was given.
        true_cfg: `true_cfg_scale`, if it was given.
    """
    found = []
    if scale is not None and cfg != "guidance_scale" and not embeds_guidance(params):
        cure = "set true_cfg_scale and a negative prompt" if cfg else "leave it out"
        found.append(f"guidance_scale={scale} has no effect: this checkpoint embeds none; {cure}")
    if true_cfg is not None and cfg != "true_cfg_scale":
        found.append(f"true_cfg_scale={true_cfg} has no effect: the scale of this model is guidance_scale")
    return found


def unguided(cfg: str, scale: float | None, negative: bool) -> str | None:
    """Return what has no effect where classifier-free guidance is off, as a sentence, or None.

    Args:
        cfg: the option that scales it, "" where there is none.
        scale: that was given.
        negative: whether a negative prompt was given.
    """
    if not cfg:
        return "the negative prompt has no effect: guidance is built into this model" if negative else None
    if scale is not None and scale < 1 and scale != 0:
        return f"{cfg}={scale} has no effect: it must be above 1"
    if negative:
        return f"the negative prompt has no effect: set {cfg} above 1"
    if scale is not None and scale > 1:
        return f"{cfg}={scale} has no effect: give a negative prompt ('' will do)"
    return None
