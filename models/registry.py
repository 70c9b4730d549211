"""The model families, and how one more is registered; a checkpoint's files tell its family, not its folder's name."""

from collections.abc import Mapping

from pure.checks import check_argument
from pure.models.family import Family, PipelineKind
from pure.models.flux import pipeline as flux_pipeline
from pure.models.flux2 import pipeline as flux2_pipeline
from pure.models.hunyuan_video import pipeline as hunyuan_video_pipeline
from pure.models.ovis import pipeline as ovis_pipeline
from pure.models.qwen_image import pipeline as qwen_image_pipeline
from pure.models.wan import pipeline as wan_pipeline
from pure.models.z_image import pipeline as z_image_pipeline

FAMILIES: tuple[Family, ...] = (
    flux_pipeline.FAMILY,
    flux2_pipeline.FAMILY,
    z_image_pipeline.FAMILY,
    ovis_pipeline.FAMILY,
    qwen_image_pipeline.FAMILY,
    wan_pipeline.FAMILY,
    hunyuan_video_pipeline.FAMILY,
)
_REGISTERED: dict[str, Family] = {}


def register(family: Family) -> None:
    """Make a family known to `load_pipeline`, as those of this package are; a later one of its name replaces it.

    See docs/adding-a-family.md.

    Raises:
        ValueError: its name or a pipeline of it belongs to another family.
        TypeError: this is no family.
    """
    check_argument(family, Family, "a family is a pure.models.family.Family(...)")
    others = {name: found for name, found in pipelines().items() if found[0] is not _REGISTERED.get(family.name)}
    if family.name in {found.name for found in FAMILIES}:
        raise ValueError(f"{family.name} is a family of this package; register yours under another name")
    for kind in family.kinds:
        if kind.pipeline in others:
            raise ValueError(f"{kind.pipeline} belongs to {others[kind.pipeline][0].name}; name another pipeline class")
    _REGISTERED[family.name] = family


def families() -> tuple[Family, ...]:
    """Return all families: those of this package, then those that were registered."""
    return (*FAMILIES, *_REGISTERED.values())


def pipelines() -> Mapping[str, tuple[Family, PipelineKind]]:
    """Return family and kind of every pipeline class, by its name."""
    return {kind.pipeline: (family, kind) for family in families() for kind in family.kinds}
