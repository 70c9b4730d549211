"""The config of a Z-Image transformer, and how its parameters are split over ranks."""

import attrs

from pure.models.common.config import TransformerConfig, check_axes
from pure.models.common.placements import placements
from pure.models.errors import CheckpointError
from pure.sharding import Part, Sharding

PATCH = 2  # latents that a token is wide and high


@attrs.frozen(kw_only=True)
class ZImageConfig(TransformerConfig):
    """The arguments of diffusers' `ZImageTransformer2DModel`."""

    transformer = "ZImageTransformer2DModel"

    all_patch_size: tuple[int, ...] = (2,)
    all_f_patch_size: tuple[int, ...] = (1,)
    in_channels: int = 16
    dim: int = 3840
    n_layers: int = 30
    n_refiner_layers: int = 2
    n_heads: int = 30
    n_kv_heads: int = 30
    norm_eps: float = 1e-5
    qk_norm: bool = True
    cap_feat_dim: int = 2560
    siglip_feat_dim: int | None = None
    rope_theta: float = 256.0
    t_scale: float = 1000.0
    axes_dims: tuple[int, ...] = (32, 48, 48)
    axes_lens: tuple[int, ...] = (1024, 512, 512)

    @property
    def heads(self) -> Part:
        """The heads of the attention."""
        return Part(self.n_heads, self.dim // self.n_heads)

    def check(self) -> None:
        """Refuse the omni variant, and sizes that do not fit together; see the base."""
        if self.siglip_feat_dim is not None:
            raise CheckpointError(
                f"siglip_feat_dim is {self.siglip_feat_dim}: the omni variant, which reads pictures, is not "
                "implemented; use a text-to-image checkpoint, where it is null"
            )
        if not self.n_heads or self.dim % self.n_heads:
            raise CheckpointError(f"dim {self.dim} must be a multiple of n_heads {self.n_heads}")
        check_axes("axes_dims", self.axes_dims, 3, "dim / n_heads =", self.heads.width)
        if len(self.axes_lens) != 3:
            raise CheckpointError(f"axes_lens {self.axes_lens} must have 3 entries, as axes_dims has")
        sizes = self.all_patch_size, self.all_f_patch_size
        if len(sizes[0]) != len(sizes[1]) or (PATCH, 1) not in zip(*sizes, strict=False):
            raise CheckpointError(
                f"all_patch_size {sizes[0]} and all_f_patch_size {sizes[1]} must pair up, and contain {PATCH} with 1: "
                f"images are cut into patches of {PATCH} x {PATCH}"
            )


def sharding(config: ZImageConfig) -> Sharding:
    """Return how the parameters are split over ranks: of all layers, those of the refiners too.

    >>> sharding(ZImageConfig()).find("noise_refiner.0.attention.to_q.weight").parts
    (Part(count=30, width=128),)
    """
    heads, inner = config.heads, Part(int(config.dim / 3 * 8))
    layers = placements(
        ("layers.*.", "noise_refiner.*.", "context_refiner.*."),
        column={"attention.to_[qkv]": (heads,), "feed_forward.w[13]": (inner,)},
        row={"attention.to_out.0": (heads,), "feed_forward.w2": (inner,)},
    )
    return Sharding(heads.count, layers)
