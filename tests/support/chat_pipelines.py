"""Whole tiny diffusers pipelines that read prompts with a language model: FLUX.2, Z-Image, Ovis-Image.

Weights are random and tokenizers byte-level, so that nothing is downloaded.
"""

import json
from pathlib import Path
from typing import Any

import numpy
import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    OvisImagePipeline,
    ZImagePipeline,
)
from PIL import Image
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from tests.support import flux2, ovis, z_image
from tests.support.tiny import _byte_symbols, vae

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# Contents are strings, or lists of parts; `enable_thinking` is read, as in the templates of Qwen3.
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
WIDTH = 16  # of language models
SHIFT, SCALE = 0.1159, 0.3611  # of latents, as in FLUX.1


def tokenizer() -> Any:
    """One token per byte."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *_byte_symbols()])}
    made = Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=4096, chat_template=TEMPLATE)
    made.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    return made


def qwen3(layers: int, *, whole: bool = False) -> Any:
    """A random Qwen3, with its map to the vocabulary if `whole`."""
    config = Qwen3Config(
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=300,
        max_position_embeddings=4096,
    )
    return (Qwen3ForCausalLM if whole else Qwen3Model)(config).eval()


def mistral3() -> Any:
    """A random Mistral 3 of 30 layers, with eyes that stay shut."""
    text = {
        "model_type": "mistral",
        "hidden_size": WIDTH,
        "intermediate_size": 24,
        "num_hidden_layers": 30,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 300,
        "max_position_embeddings": 4096,
        "sliding_window": None,
    }
    vision = {
        "model_type": "pixtral",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 24,
        "image_size": 30,
        "patch_size": 6,
    }
    config = Mistral3Config(text_config=text, vision_config=vision, image_token_index=6, vision_feature_layer=-1)
    return Mistral3ForConditionalGeneration(config).eval()


def flux2_vae() -> AutoencoderKLFlux2:
    """A random autoencoder that halves sizes: a token stands for 4 x 4 pixels; its latents are not normal."""
    blocks: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (4, 4),
    }
    vae = AutoencoderKLFlux2(
        **blocks,
        sample_size=32,
        layers_per_block=1,
        latent_channels=2,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()
    mean, variance = vae.bn.running_mean, vae.bn.running_var
    assert mean is not None and variance is not None
    torch.nn.init.normal_(mean)
    torch.nn.init.uniform_(variance, 0.5, 2.0)
    return vae


def scheduler(**changes: Any) -> FlowMatchEulerDiscreteScheduler:
    """The scheduler of FLUX.2, with changes."""
    return FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, "use_dynamic_shifting": True, **changes})


def flux2_dev() -> Flux2Pipeline:
    """FLUX.2-dev in miniature."""
    return _made(
        lambda: Flux2Pipeline(
            scheduler=scheduler(),
            vae=flux2_vae(),
            text_encoder=mistral3(),
            tokenizer=tokenizer(),
            transformer=louder(flux2.transformer(in_channels=8, joint_attention_dim=3 * WIDTH, guidance_embeds=True)),
        )
    )


def flux2_klein(distilled: bool = False) -> Flux2KleinPipeline:
    """FLUX.2-klein in miniature."""
    return _made(
        lambda: Flux2KleinPipeline(
            scheduler=scheduler(),
            vae=flux2_vae(),
            text_encoder=qwen3(27, whole=True),
            tokenizer=tokenizer(),
            transformer=louder(flux2.transformer(in_channels=8, joint_attention_dim=3 * WIDTH, guidance_embeds=False)),
            is_distilled=distilled,
        )
    )


def z_image_pipeline(shift: float = 6.0, whole: bool = False) -> ZImagePipeline:
    """Z-Image in miniature; the shift says whether it is turbo."""
    return _made(
        lambda: ZImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
            vae=vae(4, SHIFT, SCALE),
            text_encoder=qwen3(3, whole=whole),
            tokenizer=tokenizer(),
            transformer=z_image.transformer(cap_feat_dim=WIDTH, axes_lens=[1536, 64, 64]),
        )
    )


def ovis_pipeline() -> OvisImagePipeline:
    """Ovis-Image in miniature."""
    return _made(
        lambda: OvisImagePipeline(
            scheduler=scheduler(),
            vae=vae(2, SHIFT, SCALE),
            text_encoder=qwen3(3),
            tokenizer=tokenizer(),
            transformer=louder(ovis.transformer(in_channels=8, out_channels=8, joint_attention_dim=WIDTH)),
        )
    )


def louder(transformer: Any) -> Any:
    """Double the weights: what random ones make of prompts and pictures is faint."""
    with torch.no_grad():
        for parameter in transformer.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    return transformer


def _made(make: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = make()
    made.set_progress_bar_config(disable=True)
    return made


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture of noise."""
    return Image.fromarray(numpy.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=numpy.uint8))


NAMES = {"steps": "num_inference_steps", "images_per_prompt": "num_images_per_prompt", "images": "image"}


def reference(pipeline: Any, prompt: Any, *, seed: int | list[int] = 0, **options: Any) -> tuple[Any, torch.Tensor]:
    """Pixels and last latents of a diffusers pipeline, asked with our names of options."""
    seeds = seed if isinstance(seed, list) else [seed]
    generators = [torch.Generator().manual_seed(each) for each in seeds]
    last = []

    def keep(pipe: Any, index: int, timestep: Any, values: dict) -> dict:
        last.append(values["latents"])
        return values

    pixels = pipeline(
        prompt=prompt,
        generator=generators if isinstance(seed, list) else generators[0],
        output_type="pt",
        callback_on_step_end=keep,
        **{NAMES.get(name, name): value for name, value in options.items()},
    ).images
    return pixels, last[-1]


def rewrite(file: Path, **changes: Any) -> None:
    """Change entries of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
