"""The families, and which of them a checkpoint belongs to: its files say so, not its folder's name."""

from collections.abc import Mapping

from pure.models import flux_pipeline
from pure.models.family import Family, Kind

FAMILIES: tuple[Family, ...] = (flux_pipeline.FAMILY,)
KINDS: Mapping[str, tuple[Family, Kind]] = {
    kind.pipeline: (family, kind) for family in FAMILIES for kind in family.kinds
}
