"""How text encoders are split over ranks, as data for `pure.distributed.tensor_parallel_module`.

Attention is split by heads, feed-forward networks by features, embedding tables by features. In a language
model a unit of the attention is a head of keys and values with the heads of queries that read it.
"""

from collections.abc import Callable
from typing import Any

from pure.models.common.placements import placements
from pure.sharding import Count, Kind, Part, Placement, Sharding

__all__ = ["encoder_sharding"]


def encoder_sharding(encoder: Any) -> Sharding | None:
    """Return how a text encoder of transformers is split; None for one that stays whole, such as CLIP.

    T5, UMT5, Llama, Mistral, Qwen3 and Qwen2.5-VL are split, also inside of models that read pictures;
    of these the vision towers of Qwen2.5-VL and Mistral 3 are split too, and that of LLaVA, a CLIP, is whole.

    Args:
        encoder: the model; its parameters may be on the meta device.
    """
    found = [
        KINDS[type(module).__name__](f"{name}." if name else "", module.config)
        for name, module in encoder.named_modules()
        if type(module).__name__ in KINDS
    ]
    if not found:
        return None
    return Sharding(
        heads=min(each.heads for each in found),
        placements=(*(entry for each in found for entry in each.placements), *_vocabulary(encoder)),
        counts=tuple(entry for each in found for entry in each.counts),
    )


def _t5(prefix: str, config: Any) -> Sharding:
    heads, inner = Part(config.num_heads, config.d_kv), (Part(config.d_ff),)
    attention, network = f"{prefix}encoder.block.*.layer.0.SelfAttention", "layer.1.DenseReluDense."
    return Sharding(
        heads=config.num_heads,
        placements=(
            *placements(f"{attention}.", column={"[qkv]": (heads,)}, row={"o": (heads,)}),
            *placements(f"{prefix}encoder.block.*.{network}", column={"wi*": inner}, row={"wo": inner}),
            Placement(f"{attention}.relative_attention_bias", Kind.LOOKUP, (Part(config.num_heads),)),
            *(
                Placement(prefix + name, Kind.TABLE, (Part(config.d_model),))
                for name in ("shared", "encoder.embed_tokens")
            ),
        ),
        counts=(Count(attention, "n_heads", Part(config.num_heads)), Count(attention, "inner_dim", heads)),
    )


def _language(prefix: str, config: Any) -> Sharding:
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    groups, keys = heads // config.num_key_value_heads, Part(config.num_key_value_heads, width)
    queries, inner = Part(keys.count, groups * width), (Part(config.intermediate_size),)
    attention = f"{prefix}layers.*.self_attn"
    return Sharding(
        heads=keys.count,
        placements=(
            *placements(
                f"{attention}.", column={"q_proj": (queries,), "[kv]_proj": (keys,)}, row={"o_proj": (queries,)}
            ),
            *_gated(f"{prefix}layers.*.mlp.", inner),
            Placement(f"{prefix}embed_tokens", Kind.TABLE, (Part(config.hidden_size),)),
        ),
        counts=(
            Count(attention, "num_heads", Part(keys.count, groups)),
            Count(attention, "num_key_value_heads", Part(keys.count)),
        ),
    )


def _qwen_vision(prefix: str, config: Any) -> Sharding:
    heads, layer = _heads(config, config.num_heads), f"{prefix}blocks.*."
    return _vision(f"{layer}attn", heads, {"qkv": (heads,) * 3}, "proj", f"{layer}mlp.", config)


def _pixtral_vision(prefix: str, config: Any) -> Sharding:
    heads, layer = _heads(config, config.num_attention_heads), f"{prefix}transformer.layers.*."
    return _vision(f"{layer}attention", heads, {"[qkv]_proj": (heads,)}, "o_proj", f"{layer}feed_forward.", config)


def _heads(config: Any, count: int) -> Part:
    return Part(count, config.hidden_size // count)


def _vision(
    attention: str, heads: Part, column: dict[str, tuple[Part, ...]], row: str, feed: str, config: Any
) -> Sharding:
    """Return how a tower of pictures is split, by the names of its attention, of what goes into and out of it."""
    return Sharding(
        heads=heads.count,
        placements=(
            *placements(f"{attention}.", column=column, row={row: (heads,)}),
            *_gated(feed, (Part(config.intermediate_size),)),
        ),
        counts=(Count(attention, "num_heads", Part(heads.count)),),
    )


def _gated(prefix: str, inner: tuple[Part, ...]) -> tuple[Placement, ...]:
    return placements(prefix, column={"gate_proj": inner, "up_proj": inner}, row={"down_proj": inner})


def _vocabulary(encoder: Any) -> tuple[Placement, ...]:
    """Return the placement of the map to a vocabulary; none where it is the table of the embedding."""
    if "lm_head.weight" not in dict(encoder.named_parameters()):
        return ()
    return (Placement("lm_head", Kind.GATHERED, (Part(encoder.lm_head.out_features),)),)


KINDS: dict[str, Callable[[str, Any], Sharding]] = {
    **dict.fromkeys(("T5EncoderModel", "UMT5EncoderModel"), _t5),
    **dict.fromkeys(("LlamaModel", "MistralModel", "Qwen3Model", "Qwen2_5_VLTextModel"), _language),
    "Qwen2_5_VisionTransformerPretrainedModel": _qwen_vision,
    "PixtralVisionModel": _pixtral_vision,
}
"""By the class of a model, or of a part of one."""
