"""The families, and which of them a checkpoint belongs to: its files say so, not its folder's name."""

from collections.abc import Mapping

from pure.models import (
    flux2_pipeline,
    flux_pipeline,
    hunyuan_video_pipeline,
    ovis_pipeline,
    qwen_image_pipeline,
    wan_pipeline,
    z_image_pipeline,
)
from pure.models.family import Family, Kind

FAMILIES: tuple[Family, ...] = (
    flux_pipeline.FAMILY,
    flux2_pipeline.FAMILY,
    z_image_pipeline.FAMILY,
    ovis_pipeline.FAMILY,
    qwen_image_pipeline.FAMILY,
    wan_pipeline.FAMILY,
    hunyuan_video_pipeline.FAMILY,
)
KINDS: Mapping[str, tuple[Family, Kind]] = {
    kind.pipeline: (family, kind) for family in FAMILIES for kind in family.kinds
}
