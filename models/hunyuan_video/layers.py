"""What only HunyuanVideo has: refined text, and modulation of its own for a given first frame.

Shapes: B samples, N image tokens, T text tokens, S tokens of any kind, D width, H heads, C width of a head.
"""

from collections.abc import Callable

import attrs
import torch
import torch.nn.functional as F

from pure.attention import Attend
from pure.models.common.layers import Params, linear, perceptron, sinusoids

FREQUENCIES = 128  # sines and cosines each that stand for a timestep


def embed_time(params: Params, embedder: str, time: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Embed the times (B,) of a trajectory, from 1000 to 0, to (B, D).

    Unlike `layers.embed_number` it does not round the time to the type of the parameters first.
    """
    return perceptron(params, embedder + "timestep_embedder", sinusoids(time, FREQUENCIES).to(dtype))


@attrs.frozen
class Refiner:
    """Blocks that refine the text for a time.

    Attributes:
        layers: their number.
        width: C.
        attend: what their attention is.
    """

    layers: int
    width: int
    attend: Attend

    def __call__(
        self, params: Params, text: torch.Tensor, temb: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Refine projected text (B, T, D) by an activated embedding of time and text (B, D).

        Args:
            params: of the whole transformer.
            text: see above.
            temb: see above.
            mask: (B, 1, T, T) True where a token sees another; None: all see all.
        """
        for i in range(self.layers):
            text = self._block(params, f"context_embedder.token_refiner.refiner_blocks.{i}.", text, temb, mask)
        return text

    def _block(
        self, params: Params, block: str, text: torch.Tensor, temb: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        x = _norm(params, block + "norm1", text)
        q, k, v = (
            linear(params, f"{block}attn.{name}", x).unflatten(-1, (-1, self.width))
            for name in ("to_q", "to_k", "to_v")
        )
        gate, wide_gate = linear(params, block + "norm_out.linear", temb).chunk(2, dim=1)
        attended = linear(params, block + "attn.to_out.0", self.attend(q, k, v, mask).flatten(2))
        text = text + attended * gate.unsqueeze(1)
        wide = F.silu(linear(params, block + "ff.net.0.proj", _norm(params, block + "norm2", text)))
        return text + linear(params, block + "ff.net.2", wide) * wide_gate.unsqueeze(1)


def _norm(params: Params, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], params[name + ".weight"], params[name + ".bias"], 1e-6)


def framed(
    function: Callable[..., torch.Tensor],
    x: torch.Tensor,
    frame: int,
    moving: tuple[torch.Tensor, ...],
    still: tuple[torch.Tensor, ...],
) -> torch.Tensor:
    """Return `function(x, *moving)` of tokens x (B, S, D), of the first `frame` tokens with `still` if there is any."""
    if not still:
        return function(x, *moving)
    return torch.cat([function(x[:, :frame], *still), function(x[:, frame:], *moving)], dim=1)


def grid_positions(grid: tuple[int, int, int], device: torch.device) -> torch.Tensor:
    """Return frame, row and column of every image token, (N, 3) fp32."""
    return torch.cartesian_prod(*(torch.arange(size, dtype=torch.float32, device=device) for size in grid))
