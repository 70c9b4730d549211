"""The description of a model family, for the loader and for `puredit models`."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch

from pure import Denoiser, Solver
from pure.models.common.config import TransformerConfig
from pure.models.common.sizes import AllowedSizes
from pure.models.request import Defaults

if TYPE_CHECKING:
    from pure.models.pipeline import Pipeline

Config = Mapping[str, Any]


@attrs.frozen(kw_only=True)
class Family:
    """A transformer class, and the pipelines made of it.

    Attributes:
        name: as `puredit models` prints it.
        config: the record of the transformer's config; it names the transformer's class.
        denoiser: from the config to the denoiser.
        kinds: the pipelines.
        keep_fp32: parts of names of parameters that stay in fp32 where the rest is of another type.
        unread: parts of names of tensors that checkpoints store and no model reads.
        packed: whether latents are tokens (B, N, C) for the whole run, and no grid of rows and columns.
    """

    name: str
    config: type[TransformerConfig]
    denoiser: Callable[..., Denoiser]
    kinds: tuple["PipelineKind", ...]
    keep_fp32: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    packed: bool = False

    @property
    def transformer(self) -> str:
        """The class of the transformer."""
        return self.config.transformer


def _accept(found: "Description") -> None:
    """Refuse nothing."""


def _nothing(found: "Description") -> Mapping[str, Any]:
    return {}


@attrs.frozen(kw_only=True)
class PipelineKind:
    """One class of pipelines.

    Attributes:
        pipeline: diffusers' class.
        task: "text-to-image", "image-editing", "text-to-video" or "image-to-video".
        images: the least and the largest number of input pictures, or from a description to them.
        guidance: how it can be guided: "embedded", "classifier-free".
        components: classes allowed for every component that is loaded through its library; "None"
            among them lets it be absent.
        transformers: names of the transformers, a denoiser or an expert each; a second one may be absent.
        solver: from a description to the solver; refuses schedulers that are not supported.
        defaults: those of a request, or from a description to them.
        sizes: from a description to the sizes that are possible.
        build: from the loaded parts to the pipeline.
        check: refuses combinations of configs that the pipeline does not support.
        options: from a description to further arguments of the family's `denoiser`.
        checkpoints: hub ids of this kind.
    """

    pipeline: str
    task: str
    images: tuple[int, int] | Callable[["Description"], tuple[int, int]] = (0, 0)
    guidance: tuple[str, ...]
    components: Mapping[str, tuple[str, ...]]
    transformers: tuple[str, ...] = ("transformer",)
    solver: Callable[["Description"], Solver[Any]]
    defaults: Defaults | Callable[["Description"], Defaults]
    sizes: Callable[["Description"], AllowedSizes]
    build: Callable[["Parts"], "Pipeline"]
    check: Callable[["Description"], None] = attrs.field(default=_accept, eq=False)
    options: Callable[["Description"], Mapping[str, Any]] = attrs.field(default=_nothing, eq=False)
    checkpoints: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Description:
    """The description of a checkpoint folder, read from its JSON files.

    Attributes:
        folder: where it is.
        family: the family it belongs to.
        kind: the kind of pipeline.
        index: contents of `model_index.json`.
        classes: class of every component; "None" where it is absent.
        libraries: library of every component.
        configs: contents of every component's `config.json` (of the scheduler's and
            processors' own files), by component; empty where there is none.
        transformers: the same of the transformers that are there, as records.
    """

    folder: Path
    family: Family
    kind: PipelineKind
    index: Config
    classes: Mapping[str, str]
    libraries: Mapping[str, str]
    configs: Mapping[str, Config]
    transformers: Mapping[str, TransformerConfig]

    @property
    def transformer(self) -> TransformerConfig:
        """Config of the first transformer, a record of the family's `config`."""
        return next(iter(self.transformers.values()))

    @functools.cached_property
    def denoisers(self) -> Mapping[str, Denoiser]:
        """The denoiser of every transformer, by its name; each is built once."""
        options = self.kind.options(self)
        return {name: self.family.denoiser(config, **options) for name, config in self.transformers.items()}

    @property
    def solver(self) -> Solver[Any]:
        """The solver that the scheduler's config describes."""
        return self.kind.solver(self)

    @property
    def defaults(self) -> Defaults:
        """The defaults of a request."""
        found = self.kind.defaults
        return found if isinstance(found, Defaults) else found(self)

    @property
    def image_count(self) -> tuple[int, int]:
        """The least and the largest number of input pictures."""
        found = self.kind.images
        return found if isinstance(found, tuple) else found(self)

    @property
    def sizes(self) -> AllowedSizes:
        """The sizes of images and videos that are possible."""
        return self.kind.sizes(self)


@attrs.frozen(kw_only=True, eq=False)
class Parts:
    """The loaded parts of a checkpoint.

    Attributes:
        found: its description.
        params: parameters under the checkpoint's names, by name of the transformer.
        components: everything else, by name; None where it is absent.
    """

    found: Description
    params: Mapping[str, Mapping[str, torch.Tensor]]
    components: Mapping[str, Any]

    def only(self, *names: str) -> dict[str, Any]:
        """Return some of the components, by name."""
        return {name: self.components[name] for name in names}

    @property
    def common(self) -> dict[str, Any]:
        """The fields that every pipeline with one transformer has."""
        return {
            "denoiser": next(iter(self.found.denoisers.values())),
            "params": self.params["transformer"],
            "solver": self.found.solver,
            "defaults": self.found.defaults,
            "image_count": self.found.image_count,
        }
