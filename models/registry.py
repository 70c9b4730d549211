"""The families, and which of them a checkpoint belongs to: its files say so, not its folder's name."""

from collections.abc import Mapping

from pure.models.family import Family, Kind
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
KINDS: Mapping[str, tuple[Family, Kind]] = {
    kind.pipeline: (family, kind) for family in FAMILIES for kind in family.kinds
}
