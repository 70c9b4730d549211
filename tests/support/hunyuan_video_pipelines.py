"""Whole HunyuanVideo pipelines in miniature, made offline: random weights, byte-level tokenizers."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoPipeline,
)
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from pure.models.hunyuan_video.text import Template
from tests.support import hunyuan_video, tiny

SPECIAL = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<pad>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<image>", "system", "user", "assistant", "\n\n"),
)
SIDE = 4  # tokens on a side of a picture
# Short ones: of the real ones every letter is a token here.
SHORT = Template(text="{}", crop=0)
SHORT_PICTURE = Template(
    text="<|start_header_id|>s<|end_header_id|>\n<image>d<|eot_id|><|start_header_id|>u<|end_header_id|>\n"
    "{}<|eot_id|><|start_header_id|>a<|end_header_id|>\n",
    crop=12,
    picture=5,
    size=SIDE**2,
)


def as_diffusers(template: Template) -> dict[str, Any]:
    """The template as diffusers' pipelines take it."""
    found = {"template": template.text, "crop_start": template.crop}
    if not template.size:
        return found
    places = {"image_emb_start": template.picture, "image_emb_end": template.picture + template.size}
    return {**found, **places, "image_emb_len": template.size}


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and the ones that the templates are made of."""
    symbols = tiny._byte_symbols()
    made = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(word, normalized=False) for word in SPECIAL])
    begin = SPECIAL[0]
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, made.token_to_id(begin))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=begin, eos_token=SPECIAL[1], pad_token="<pad>", padding_side="right"
    )


def _llama() -> LlamaConfig:
    first = len(tiny._byte_symbols())
    return LlamaConfig(
        bos_token_id=first,
        eos_token_id=first + 1,
        pad_token_id=first + 2,
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=4,
        vocab_size=300,
    )


def llava(side: int) -> LlavaForConditionalGeneration:
    """A random language model that sees pictures of `side` x `side` tokens."""
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=14 * side,
        patch_size=14,
        projection_dim=16,
    )
    first = len(tiny._byte_symbols())
    settings: dict[str, Any] = {  # of any kind, whatever the annotations say
        "text_config": _llama(),
        "vision_config": vision,
        "image_token_index": first + SPECIAL.index("<image>"),
        "image_seq_length": side**2,
        "pad_token_id": first + 2,
    }
    return LlavaForConditionalGeneration(LlavaConfig(**settings)).eval()


def vae() -> AutoencoderKLHunyuanVideo:
    """A random autoencoder: a latent stands for 8 x 8 pixels of 4 frames."""
    blocks: dict[str, Any] = {
        "down_block_types": ("HunyuanVideoDownBlock3D",) * 4,
        "up_block_types": ("HunyuanVideoUpBlock3D",) * 4,
        "block_out_channels": (8, 8, 8, 8),
    }
    return AutoencoderKLHunyuanVideo(
        **blocks,
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        layers_per_block=1,
        act_fn="silu",
        norm_num_groups=4,
        scaling_factor=0.476986,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
        mid_block_add_attention=True,
    ).eval()


def pipeline(kind: str = "text", *, side: int = SIDE, shift: float = 7.0, **changes) -> Any:
    """A random diffusers pipeline of a kind of `hunyuan_video.KINDS`, the transformer's `CONFIG` with changes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts: dict[str, Any] = {
            "transformer": hunyuan_video.transformer(kind, **changes),
            "vae": vae(),
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=shift),
            "tokenizer": tokenizer(),
            "text_encoder_2": tiny.clip(),
            "tokenizer_2": tiny.clip_tokenizer(),
        }
        if kind == "text":
            made: Any = HunyuanVideoPipeline(**parts, text_encoder=LlamaModel(_llama()).eval())
        else:
            pixels = {"height": 14 * side, "width": 14 * side}
            processor = CLIPImageProcessorPil(size={"shortest_edge": 14 * side}, crop_size=pixels)
            parts["image_processor"] = processor
            made = HunyuanVideoImageToVideoPipeline(**parts, text_encoder=llava(side))
    made.set_progress_bar_config(disable=True)
    return made


def picture(width: int = 40, height: int = 24) -> Image.Image:
    """A picture in which every pixel is another."""
    columns, rows = torch.arange(width).expand(height, -1), torch.arange(height)[:, None].expand(-1, width)
    colours = torch.stack([255 * columns // width, 255 * rows // height, (7 * rows + 11 * columns) % 256], dim=-1)
    return Image.fromarray(colours.to(torch.uint8).numpy())
