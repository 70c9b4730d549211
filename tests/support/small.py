"""A made-up transformer as diffusers would have it, and a checkpoint of it: what docs/adding-a-family.md adds."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import TimestepEmbedding, Timesteps, apply_rotary_emb
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import AdaLayerNormContinuous
from diffusers.models.transformers.transformer_flux import FluxPosEmbed
from torch import nn

from tests.support import chat_pipelines
from tests.support.tiny import vae

CONFIG = {
    "in_channels": 8,
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": chat_pipelines.WIDTH,
    "axes_dims_rope": (4, 4, 8),
}


class Attention(nn.Module):
    """Attention among all tokens, with normalised and rotated queries and keys."""

    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.norm_q, self.norm_k = nn.RMSNorm(head, eps=1e-6), nn.RMSNorm(head, eps=1e-6)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        q, k, v = (each(x).unflatten(-1, (-1, len(self.norm_q.weight))) for each in (self.to_q, self.to_k, self.to_v))
        turn: Any = apply_rotary_emb  # takes both tables, whatever its annotation says
        q, k = (turn(y, rotary, sequence_dim=1) for y in (self.norm_q(q), self.norm_k(k)))
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        return self.to_out[0](nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Modulation(nn.Module):
    """Shift, scale and gate of attention and feed-forward network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 6 * width)

    def forward(self, temb: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.linear(nn.functional.silu(temb)).unsqueeze(1).chunk(6, dim=2)


class SmallBlock(nn.Module):
    """One block, on text and image as one sequence."""

    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.norm, self.attn = Modulation(width), Attention(width, head)
        self.ff = FeedForward(width, activation_fn="gelu-approximate")

    def forward(self, x: torch.Tensor, temb: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        shift, scale, gate, shift_after, scale_after, gate_after = self.norm(temb)
        normed = nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6)
        x = x + gate * self.attn(normed * (1 + scale) + shift, rotary)
        normed = nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6)
        return x + gate_after * self.ff(normed * (1 + scale_after) + shift_after)


class SmallTransformer2DModel(ModelMixin, ConfigMixin):
    """The transformer."""

    @register_to_config
    def __init__(
        self,
        in_channels: int = 64,
        out_channels: int | None = None,
        num_layers: int = 12,
        attention_head_dim: int = 64,
        num_attention_heads: int = 8,
        joint_attention_dim: int = 1024,
        axes_dims_rope: tuple[int, ...] = (16, 24, 24),
    ) -> None:
        super().__init__()
        width = attention_head_dim * num_attention_heads
        self.x_embedder = nn.Linear(in_channels, width)
        self.context_embedder = nn.Linear(joint_attention_dim, width)
        self.time_proj = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.timestep_embedder = TimestepEmbedding(256, width)
        self.pos_embed = FluxPosEmbed(10000, list(axes_dims_rope))
        self.blocks = nn.ModuleList(SmallBlock(width, attention_head_dim) for _ in range(num_layers))
        self.norm_out = AdaLayerNormContinuous(width, width, elementwise_affine=False, eps=1e-6)
        self.proj_out = nn.Linear(width, out_channels or in_channels)

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        ids: torch.Tensor,
    ) -> torch.Tensor:
        """Predict the velocity of tokens (B, N, channels) from text (B, T, width) and positions (T + N, 3)."""
        temb = self.timestep_embedder(self.time_proj(timestep * 1000).to(hidden_states.dtype))
        x = torch.cat([self.context_embedder(encoder_hidden_states), self.x_embedder(hidden_states)], dim=1)
        rotary = self.pos_embed(ids)
        for block in self.blocks:
            x = block(x, temb, rotary)
        return self.proj_out(self.norm_out(x[:, encoder_hidden_states.shape[1] :], temb))


def transformer(seed: int = 0, **changes) -> SmallTransformer2DModel:
    """A random transformer, `CONFIG` with changes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallTransformer2DModel(**{**CONFIG, **changes}).eval()


def save(folder: Path) -> SmallTransformer2DModel:
    """Save a whole checkpoint, as diffusers writes it; return its transformer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = {
            "vae": ("diffusers", vae(2, chat_pipelines.SHIFT, chat_pipelines.SCALE)),
            "text_encoder": ("transformers", chat_pipelines.qwen3(2)),
            "tokenizer": ("transformers", chat_pipelines.tokenizer()),
            "scheduler": ("diffusers", FlowMatchEulerDiscreteScheduler(shift=3.0)),
        }
    made = chat_pipelines.louder(transformer())
    parts["transformer"] = (__name__, made)
    index: dict[str, object] = {"_class_name": "SmallPipeline", "_diffusers_version": "1.0"}
    for name, (library, part) in parts.items():
        part.save_pretrained(folder / name)
        index[name] = [library, type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return made
