"""Diffusers transformers in miniature, of many families, and one call of each.

`FAMILIES[name]` is (class, config, call): `call(config, batch)` gives the keyword arguments of a forward.
"""

from collections.abc import Callable
from typing import Any

import attrs
import diffusers
import torch

from tests.support import generic_calls as calls
from tests.support.generic_calls import Draw


@attrs.frozen
class Family:
    """A class of transformers: a small config, one call, and how many blocks are to be found."""

    name: str
    kind: str
    config: dict
    call: Callable[[Draw, int], dict]
    blocks: int
    streams: int

    def __repr__(self) -> str:
        return self.name

    def build(self, seed: int = 0, **changes: Any) -> Any:
        """A transformer with random weights, none of them zero, so that every block does something."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = getattr(diffusers, self.kind)(**{**self.config, **changes}).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    if not parameter.any():
                        parameter.normal_(std=0.1)
        return model.requires_grad_(False)

    def example(self, batch: int = 1, seed: int = 0) -> dict:
        return self.call(Draw(seed), batch)


HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}
ROTARY = {**HEADS, "in_channels": 4, "joint_attention_dim": 32, "axes_dims_rope": (4, 4, 8)}
PATCHES = {**HEADS, "in_channels": 4, "out_channels": 4, "patch_size": 2}
WAN = {
    **HEADS,
    "patch_size": (1, 2, 2),
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 32,
    "num_layers": 4,
    "rope_max_seq_len": 32,
}

FAMILIES = [
    Family(
        "sd3",
        "SD3Transformer2DModel",
        {
            **PATCHES,
            "sample_size": 8,
            "num_layers": 4,
            "joint_attention_dim": 32,
            "caption_projection_dim": 32,
            "pooled_projection_dim": 16,
            "pos_embed_max_size": 8,
            "dual_attention_layers": (0, 1),
            "qk_norm": "rms_norm",
        },
        calls.sd3,
        4,
        2,
    ),
    Family(
        "pixart",
        "PixArtTransformer2DModel",
        {
            **PATCHES,
            "out_channels": 8,
            "sample_size": 8,
            "num_layers": 4,
            "cross_attention_dim": 32,
            "caption_channels": 32,
            "use_additional_conditions": False,
        },
        calls.pixart,
        4,
        1,
    ),
    Family(
        "sana",
        "SanaTransformer2DModel",
        {
            **HEADS,
            "patch_size": 1,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 4,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 16,
            "cross_attention_dim": 32,
            "caption_channels": 8,
            "sample_size": 8,
        },
        calls.sana,
        4,
        1,
    ),
    Family(
        "flux",
        "FluxTransformer2DModel",
        {**ROTARY, "num_layers": 2, "num_single_layers": 3, "pooled_projection_dim": 32, "guidance_embeds": True},
        calls.flux,
        5,
        2,
    ),
    Family(
        "flux2",
        "Flux2Transformer2DModel",
        {
            **ROTARY,
            "num_layers": 2,
            "num_single_layers": 3,
            "axes_dims_rope": (4, 4, 4, 4),
            "timestep_guidance_channels": 32,
        },
        calls.flux2,
        5,
        2,
    ),
    Family(
        "chroma",
        "ChromaTransformer2DModel",
        {
            **ROTARY,
            "num_layers": 2,
            "num_single_layers": 3,
            "approximator_num_channels": 8,
            "approximator_hidden_dim": 16,
            "approximator_layers": 1,
        },
        calls.chroma,
        5,
        2,
    ),
    Family(
        "auraflow",
        "AuraFlowTransformer2DModel",
        {
            **PATCHES,
            "sample_size": 8,
            "num_mmdit_layers": 2,
            "num_single_dit_layers": 3,
            "joint_attention_dim": 32,
            "caption_projection_dim": 32,
            "pos_embed_max_size": 64,
        },
        calls.auraflow,
        5,
        2,
    ),
    Family(
        "lumina2",
        "Lumina2Transformer2DModel",
        {
            "sample_size": 8,
            "in_channels": 4,
            "hidden_size": 24,
            "num_layers": 4,
            "num_refiner_layers": 1,
            "num_attention_heads": 2,
            "num_kv_heads": 1,
            "multiple_of": 2,
            "axes_dim_rope": (4, 4, 4),
            "axes_lens": (128, 128, 128),
            "cap_feat_dim": 32,
        },
        calls.lumina2,
        4,
        1,
    ),
    Family(
        "hidream",
        "HiDreamImageTransformer2DModel",
        {
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "num_single_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "caption_channels": (8, 8),
            "text_emb_dim": 8,
            "axes_dims_rope": (4, 2, 2),
            "max_resolution": (8, 8),
            "llama_layers": (0, 1, 2, 3),
            "force_inference_output": True,
        },
        calls.hidream,
        4,
        2,
    ),
    Family(
        "cogview4",
        "CogView4Transformer2DModel",
        {
            **PATCHES,
            "num_layers": 4,
            "text_embed_dim": 16,
            "time_embed_dim": 8,
            "condition_dim": 4,
            "rope_axes_dim": (8, 8),
        },
        calls.cogview4,
        4,
        2,
    ),
    Family(
        "cogvideox",
        "CogVideoXTransformer3DModel",
        {
            **PATCHES,
            "num_layers": 4,
            "time_embed_dim": 8,
            "text_embed_dim": 16,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 8,
            "max_text_seq_length": 7,
        },
        calls.cogvideox,
        4,
        2,
    ),
    Family(
        "ltx",
        "LTXVideoTransformer3DModel",
        {
            **HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "cross_attention_dim": 32,
            "caption_channels": 16,
            "num_layers": 4,
        },
        calls.ltx,
        4,
        1,
    ),
    Family(
        "mochi",
        "MochiTransformer3DModel",
        {
            **HEADS,
            "patch_size": 2,
            "num_layers": 4,
            "pooled_projection_dim": 16,
            "in_channels": 4,
            "text_embed_dim": 16,
            "time_embed_dim": 4,
            "max_sequence_length": 7,
        },
        calls.mochi,
        4,
        2,
    ),
    Family("skyreels", "SkyReelsV2Transformer3DModel", WAN, calls.wan, 4, 1),
    Family("wan", "WanTransformer3DModel", WAN, calls.wan, 4, 1),
    Family(
        "allegro",
        "AllegroTransformer3DModel",
        {
            **PATCHES,
            "num_layers": 4,
            "cross_attention_dim": 32,
            "caption_channels": 16,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 2,
        },
        calls.wan,
        4,
        1,
    ),
    Family(
        "qwen",
        "QwenImageTransformer2DModel",
        {**ROTARY, "patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 4},
        calls.qwen,
        4,
        2,
    ),
    Family(
        "hunyuan",
        "HunyuanVideoTransformer3DModel",
        {
            **PATCHES,
            "num_layers": 2,
            "num_single_layers": 2,
            "num_refiner_layers": 1,
            "mlp_ratio": 2.0,
            "patch_size_t": 1,
            "guidance_embeds": True,
            "text_embed_dim": 32,
            "pooled_projection_dim": 32,
            "rope_axes_dim": (4, 4, 8),
        },
        calls.hunyuan,
        4,
        2,
    ),
    Family(
        "z-image",
        "ZImageTransformer2DModel",
        {
            "all_patch_size": (2,),
            "all_f_patch_size": (1,),
            "in_channels": 16,
            "dim": 32,
            "n_layers": 4,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "n_kv_heads": 2,
            "cap_feat_dim": 32,
            "axes_dims": [4, 4, 8],
            "axes_lens": [256, 32, 32],
        },
        calls.z_image,
        4,
        1,
    ),
]
NAMED = {family.name: family for family in FAMILIES}
