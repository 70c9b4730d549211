"""The guidance of a denoiser, or of every expert."""

from collections.abc import Mapping

import attrs

from pure import Denoiser, Experts, Guidance


def guidance_of(denoiser: Denoiser | Experts) -> Guidance | None:
    """Return the guidance of a denoiser, or of the first expert."""
    first = next(iter(denoiser.denoisers.values())) if isinstance(denoiser, Experts) else denoiser
    return first.guidance


def with_guidance(denoiser: Denoiser | Experts, guidance: Guidance | Mapping[str, Guidance]) -> Denoiser | Experts:
    """Return the denoiser guided so; experts all alike, or each as a mapping says."""
    if isinstance(denoiser, Experts):
        each = guidance if isinstance(guidance, Mapping) else dict.fromkeys(denoiser.denoisers, guidance)
        return Experts({name: attrs.evolve(one, guidance=each[name]) for name, one in denoiser.denoisers.items()})
    assert isinstance(guidance, Guidance)
    return attrs.evolve(denoiser, guidance=guidance)
