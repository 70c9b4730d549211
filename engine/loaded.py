"""From what a request asks for to what the engine carries out, with everything checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from pure.configs import ConfigError, Facts, configure
from pure.engine import opening as models
from pure.engine.caching import Caching, transforms_of
from pure.engine.errors import Misuse
from pure.engine.opening import facts_of
from pure.experts import transformed
from pure.models.family import Description
from pure.models.pipeline import Model, Pipeline
from pure.models.request import Request

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Asked", "Recipe", "Sources", "Studio", "alike", "facts_of"]


@attrs.frozen(kw_only=True)
class Sources:
    """What the server's own flags and file say of the cache; a request and the environment say the rest.

    Attributes:
        flags: values by path, as `pure.configs.read_flags` takes them.
        spelling: the flag that each comes from.
        file: of `--cache-dit-config`.
        lenient: whether unknown keys in it are notes.
    """

    flags: Mapping[str, Any] = attrs.field(factory=dict)
    spelling: Mapping[str, str] = attrs.field(factory=dict)
    file: str | None = None
    lenient: bool = False

    def choose(self, params: Any, enable: bool | None, environ: Mapping[str, str], facts: Facts) -> Caching:
        """Return the cache of one request: request > flag > file > environment > default.

        Raises:
            ConfigError: lists everything that is wrong in any of them.
        """
        effective = configure(
            params=params,
            enable=enable,
            flags=self.flags,
            spelling=self.spelling,
            file=self.file,
            lenient=self.lenient,
            environ=environ,
            facts=facts,
        )
        return Caching.of(effective)


@attrs.frozen(kw_only=True)
class Asked:
    """What one request asks for, read but not yet held against the model.

    Attributes:
        negative_prompt: what to avoid, None where nothing is said.
        options: by the library's names; what nobody asked for is left out.
        images: input pictures.
        notes: on the input pictures.
        params: `cache_dit_params`.
        enable: `enable_cache_dit`.
        seconds: length of a video where frames are not counted.
        fps: frames per second.
    """

    negative_prompt: str | None = None
    options: Mapping[str, Any] = attrs.field(factory=dict)
    images: tuple[Image.Image, ...] = ()
    notes: tuple[str, ...] = ()
    params: Any = None
    enable: bool | None = None
    seconds: float | None = None
    fps: int | None = None


@attrs.frozen(kw_only=True, eq=False)
class Recipe:
    """How a picture or a video is made, but for its prompt and seed.

    Attributes:
        request: of one sample, with an empty prompt.
        denoiser: guided and cached.
        caching: the cache and where its settings come from.
        fps: frames per second; None of images.
        notes: what a person should be told: settings without effect.
    """

    request: Request
    denoiser: Model
    caching: Caching
    fps: int | None
    notes: tuple[str, ...]


def alike(one: Recipe, other: Recipe) -> bool:
    """Whether samples of both can be in one batch."""
    if one is other:
        return True
    if one.request.images or other.request.images or one.request != other.request:
        return False  # pictures belong to all samples of a batch: only those of one request share them
    return one.denoiser == other.denoiser


@attrs.frozen(kw_only=True, eq=False)
class Studio:
    """A loaded checkpoint and the server's settings; nothing in it ever changes.

    Attributes:
        pipeline: what was loaded.
        base: its denoiser, compiled if that is asked for; neither guided nor cached.
        found: what the checkpoint says of itself.
        sources: what the server's flags say of the cache.
    """

    pipeline: Pipeline
    base: Model
    found: Description
    sources: Sources

    @property
    def video(self) -> bool:
        """Whether the model makes videos."""
        return models.video(self.found)

    @property
    def pictures(self) -> tuple[int, int]:
        """The least and the largest number of input pictures."""
        return self.pipeline.image_count

    def check_pictures(self, count: int) -> None:
        """Check the number of input pictures.

        Raises:
            Misuse: the model reads another number.
        """
        least, most = self.pictures
        if not least <= count <= most:
            wanted = "no" if not most else f"{least}" if least == most else f"{least} to {most}"
            raise Misuse(f"a {self.found.kind.pipeline} reads {wanted} input pictures; this request has {count}")

    def recipe(self, asked: Asked, environ: Mapping[str, str]) -> Recipe:
        """Check a request against model and configuration.

        Raises:
            Misuse: something in it is wrong or cannot be done; with the whole report.
        """
        try:
            caching = self.sources.choose(
                asked.params, asked.enable, environ, facts_of(self.found, asked.options.get("steps"))
            )
        except ConfigError as error:
            raise Misuse(str(error), field="cache_dit_params", code="invalid_cache_config") from error
        self._fits(asked)
        try:
            plain, request = self.pipeline.guide(self.base, self._sized(asked))
            denoiser = transformed(plain, transforms_of(caching, plain))
            found = (*request.notes, *denoiser.notes(self.pipeline.schedule(request)))
        except (ValueError, TypeError, OverflowError) as error:
            raise Misuse(str(error)) from error
        fps = (asked.fps or self.found.defaults.fps) if self.video else None
        told = (*caching.effective.notes, *asked.notes, *(note.text for note in found))
        notes = tuple(dict.fromkeys(told))
        return Recipe(request=request, denoiser=denoiser, caching=caching, fps=fps, notes=notes)

    def _fits(self, asked: Asked) -> None:
        """Refuse what this model has no place for."""
        self.check_pictures(len(asked.images))
        if asked.options.get("guidance_scale_2") is not None and models.experts(self.found) == 1:
            raise Misuse(
                "guidance_scale_2 is for the second expert of a model, and this one has one; leave it out",
                field="guidance_scale_2",
            )

    def _sized(self, asked: Asked) -> Request:
        """Return the request with sizes; seconds become the nearest number of frames that is possible and not more."""
        options: dict[str, Any] = {**asked.options, "images": asked.images}
        if asked.seconds is None or "frames" in options:
            return self.pipeline.request("", asked.negative_prompt, **options)
        wanted = max(round(asked.seconds * (asked.fps or self.found.defaults.fps)), 1)
        for frames in range(wanted, max(wanted - 64, 0), -1):
            options["frames"] = frames
            try:
                return self.pipeline.request("", asked.negative_prompt, **options)
            except ValueError:
                continue
        options["frames"] = wanted  # nothing near it is possible: let the error say why
        return self.pipeline.request("", asked.negative_prompt, **options)
