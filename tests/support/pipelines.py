"""Whole diffusers pipelines in miniature, made offline: random weights, byte-level tokenizers.

`make(name)` gives a pipeline and the arguments of one call.
"""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
import transformers
from PIL import Image

from tests.support import tiny
from tests.support.generic import NAMED

# Their constructors are annotated with types that random weights and None do not have.
library: Any = diffusers
encoders: Any = transformers
VOCABULARY = 512
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"]
SPECIAL += ["<|image_pad|>", "<|video_pad|>"]
TEMPLATE = (
    "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% endfor %}"
)
IMAGE = Image.new("RGB", (32, 32), (120, 30, 200))
MASK = Image.new("L", (32, 32), 0)
MASK.paste(255, (8, 8, 24, 24))


def qwen_tokenizer() -> Any:
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *tiny._byte_symbols()])}
    made = encoders.Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=4096, chat_template=TEMPLATE)
    made.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    return made


TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": VOCABULARY}
QWEN3 = {**TEXT, "intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096}
SPECIAL_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def umt5() -> Any:
    config = encoders.UMT5Config(vocab_size=1024, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
    return encoders.UMT5EncoderModel(config).eval()


def qwen_vl() -> Any:
    rope: dict[str, Any] = {"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"}
    text = {**TEXT, **SPECIAL_IDS, "intermediate_size": 32, "num_key_value_heads": 2, "rope_scaling": rope}
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    tokens = {"vision_start_token_id": 3, "vision_end_token_id": 4, "vision_token_id": 5, "image_token_id": 6}
    return encoders.Qwen2_5_VLForConditionalGeneration(
        encoders.Qwen2_5_VLConfig(text_config=text, vision_config=vision, video_token_id=7, **tokens)
    ).eval()


def mistral() -> Any:
    text = {**TEXT, **SPECIAL_IDS, "model_type": "mistral", "intermediate_size": 32, "num_key_value_heads": 2}
    text |= {"max_position_embeddings": 4096, "sliding_window": None}
    vision = {"model_type": "pixtral", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"intermediate_size": 16, "image_size": 30, "patch_size": 6, "num_channels": 3}
    return encoders.Mistral3ForConditionalGeneration(
        encoders.Mistral3Config(text_config=text, vision_config=vision, image_token_index=6, vision_feature_layer=-1)
    ).eval()


def clip_projecting() -> Any:
    config = encoders.CLIPTextConfig(
        **{**TEXT, "hidden_size": 8, "vocab_size": 1000, "intermediate_size": 16, "projection_dim": 8},
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        max_position_embeddings=77,
    )
    return encoders.CLIPTextModelWithProjection(config).eval()


def kl(latent: int = 4, levels: int = 2, **changes: Any) -> Any:
    config = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": (4,) * levels,
        "layers_per_block": 1,
        "latent_channels": latent,
        "norm_num_groups": 1,
        "shift_factor": 0.06,
        "scaling_factor": 1.5,
    }
    return library.AutoencoderKL(**{**config, **changes}).eval()


def qwen_vae() -> Any:
    return library.AutoencoderKLQwenImage(
        base_dim=24,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).eval()


def wan_vae(**changes: Any) -> Any:
    config = {"base_dim": 3, "z_dim": 16, "dim_mult": [1] * 4, "num_res_blocks": 1}
    return library.AutoencoderKLWan(**{**config, "temperal_downsample": [False, True, True], **changes}).eval()


def flux(kind: str = "FluxPipeline", **parts: Any) -> tuple[Any, dict]:
    made = getattr(library, kind)(**{**tiny.pipeline().components, **parts})
    call = {"prompt": "a cat", "guidance_scale": 3.5, "height": 16, "width": 16, "max_sequence_length": 24}
    return made, {**call, "num_inference_steps": 6}


def flux_img2img() -> tuple[Any, dict]:
    made, call = flux("FluxImg2ImgPipeline")
    return made, {**call, "image": IMAGE.resize((16, 16)), "strength": 0.7, "num_inference_steps": 9}


def flux_inpaint() -> tuple[Any, dict]:
    made, call = flux("FluxInpaintPipeline")
    images = {"image": IMAGE.resize((16, 16)), "mask_image": MASK.resize((16, 16))}
    return made, {**call, **images, "strength": 0.9, "num_inference_steps": 7}


def flux_controlnet() -> tuple[Any, dict]:
    config = {**tiny.CONFIG, "num_layers": 1, "num_single_layers": 2}
    net = library.FluxControlNetModel(**config).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():  # untrained, what it adds is zero
                parameter.normal_(std=0.1)
    made, call = flux("FluxControlNetPipeline", controlnet=net)
    return made, {**call, "control_image": IMAGE.resize((16, 16)), "controlnet_conditioning_scale": 0.8}


def flux_kontext() -> tuple[Any, dict]:
    made, call = flux("FluxKontextPipeline")
    return made, {**call, "image": IMAGE.resize((16, 16)), "_auto_resize": False, "max_area": 256}


def _flux2(kind: str, text_encoder: Any, guided: bool) -> tuple[Any, dict]:
    config = {"num_attention_heads": 4, "timestep_guidance_channels": 256, "guidance_embeds": guided}
    vae = library.AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()
    made = getattr(library, kind)(
        scheduler=library.FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=qwen_tokenizer(),
        transformer=NAMED["flux2"].build(**config),
    )
    call = {"prompt": "a dog", "guidance_scale": 4.0, "height": 16, "width": 16, "max_sequence_length": 32}
    return made, {**call, "num_inference_steps": 6, "text_encoder_out_layers": (1,)}


def flux2() -> tuple[Any, dict]:
    made, call = _flux2("Flux2Pipeline", mistral(), guided=True)
    made.system_message = ""  # byte by byte it would leave no room for the prompt
    return made, call


def klein() -> tuple[Any, dict]:
    return _flux2("Flux2KleinPipeline", encoders.Qwen3ForCausalLM(encoders.Qwen3Config(**QWEN3)).eval(), guided=False)


def qwen(kind: str = "QwenImagePipeline", **parts: Any) -> tuple[Any, dict]:
    made = getattr(library, kind)(
        scheduler=library.FlowMatchEulerDiscreteScheduler(),
        vae=qwen_vae(),
        text_encoder=qwen_vl(),
        tokenizer=qwen_tokenizer(),
        transformer=NAMED["qwen"].build(),
        **parts,
    )
    made.prompt_template_encode, made.prompt_template_encode_start_idx = "{}", 0
    call = {"prompt": "dance monkey", "negative_prompt": "bad", "true_cfg_scale": 2.0, "height": 32, "width": 32}
    return made, {**call, "num_inference_steps": 6, "max_sequence_length": 64}


class Processor:
    """Image and text to tokens; the real one needs torchvision."""

    def __init__(self) -> None:
        self.tokenizer = qwen_tokenizer()

    def __call__(self, text: Any, images: Any = None, padding: bool = True, return_tensors: str = "pt") -> Any:
        images = encoders.Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 56)(
            images=images, return_tensors="pt"
        )
        number = int(images["image_grid_thw"][0].prod()) // 4
        text = [each.replace("<|image_pad|>", "<|image_pad|>" * number) for each in text]
        return encoders.BatchFeature({**self.tokenizer(text, padding=padding, return_tensors=return_tensors), **images})


def qwen_edit() -> tuple[Any, dict]:
    made, call = qwen("QwenImageEditPipeline", processor=None)
    made.processor = Processor()
    made.prompt_template_encode = "<|vision_start|><|image_pad|><|vision_end|>{}"
    return made, {**call, "image": IMAGE, "max_sequence_length": 512}


def _wan(transformer: dict, scheduler: Any = None, vae: Any = None, **parts: Any) -> tuple[Any, dict]:
    made = library.WanPipeline(
        tokenizer=tiny.t5_tokenizer(),
        text_encoder=umt5(),
        vae=vae or wan_vae(),
        scheduler=scheduler or library.FlowMatchEulerDiscreteScheduler(shift=7.0),
        transformer=NAMED["wan"].build(**transformer),
        **parts,
    )
    call = {"prompt": "dance monkey", "negative_prompt": "bad", "guidance_scale": 4.0, "height": 16, "width": 16}
    return made, {**call, "num_inference_steps": 6, "num_frames": 5, "max_sequence_length": 16}


WAN = {"in_channels": 16, "out_channels": 16}


def _unipc() -> Any:
    return library.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def wan21() -> tuple[Any, dict]:
    return _wan(WAN)


def wan22() -> tuple[Any, dict]:
    made, call = _wan(WAN, _unipc(), transformer_2=NAMED["wan"].build(1, **WAN), boundary_ratio=0.875)
    return made, {**call, "guidance_scale_2": 3.0, "num_inference_steps": 8}


def wan22_5b() -> tuple[Any, dict]:
    parts = {"in_channels": 12, "out_channels": 12, "is_residual": True, "patch_size": 2, "scale_factor_spatial": 16}
    vae = wan_vae(z_dim=48, latents_mean=[0.0] * 48, latents_std=[1.0] * 48, scale_factor_temporal=4, **parts)
    wide = {"in_channels": 48, "out_channels": 48}
    made, call = _wan(wide, _unipc(), vae, expand_timesteps=True)
    return made, {**call, "height": 32, "width": 32}


def z_image() -> tuple[Any, dict]:
    made = library.ZImagePipeline(
        scheduler=library.FlowMatchEulerDiscreteScheduler(),
        vae=kl(16),
        text_encoder=encoders.Qwen3Model(encoders.Qwen3Config(**QWEN3)).eval(),
        tokenizer=qwen_tokenizer(),
        transformer=NAMED["z-image"].build(),
    )
    call = {"prompt": "dance monkey", "negative_prompt": "bad quality", "guidance_scale": 3.0, "height": 32}
    return made, {**call, "width": 32, "num_inference_steps": 6, "max_sequence_length": 64}


def hunyuan() -> tuple[Any, dict]:
    vae = library.AutoencoderKLHunyuanVideo(
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
    ).eval()
    made = library.HunyuanVideoPipeline(
        text_encoder=encoders.LlamaModel(encoders.LlamaConfig(**TEXT, **SPECIAL_IDS, intermediate_size=32)).eval(),
        tokenizer=qwen_tokenizer(),
        transformer=NAMED["hunyuan"].build(patch_size=1),
        vae=vae,
        scheduler=library.FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=tiny.clip(),
        tokenizer_2=tiny.clip_tokenizer(),
    )
    call = {"prompt": "dance monkey", "prompt_template": {"template": "{}", "crop_start": 0}, "height": 16}
    return made, {**call, "width": 16, "num_frames": 5, "num_inference_steps": 6, "max_sequence_length": 16}


def sd3() -> tuple[Any, dict]:
    made = library.StableDiffusion3Pipeline(
        transformer=NAMED["sd3"].build(),
        scheduler=library.FlowMatchEulerDiscreteScheduler(),
        vae=kl(),
        text_encoder=clip_projecting(),
        tokenizer=tiny.clip_tokenizer(),
        text_encoder_2=clip_projecting(),
        tokenizer_2=tiny.clip_tokenizer(),
        text_encoder_3=tiny.t5(),
        tokenizer_3=tiny.t5_tokenizer(),
    )
    call = {"prompt": "a cat", "negative_prompt": "a dog", "guidance_scale": 4.0, "height": 16, "width": 16}
    return made, {**call, "num_inference_steps": 6, "max_sequence_length": 24}


def unet(scheduler: Any = None) -> tuple[Any, dict]:
    made = library.StableDiffusionPipeline(
        unet=library.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(4, 8),
            norm_num_groups=2,
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=2,
        ).eval(),
        scheduler=scheduler or library.DDIMScheduler(steps_offset=1, clip_sample=False),
        vae=kl(),
        text_encoder=tiny.clip(),
        tokenizer=tiny.clip_tokenizer(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return made, {"prompt": "a cat", "negative_prompt": "a dog", "height": 16, "width": 16, "num_inference_steps": 6}


KINDS: dict[str, Callable[[], tuple[Any, dict]]] = {
    each.__name__: each
    for each in (
        *(flux, flux_img2img, flux_inpaint, flux_controlnet, flux_kontext, flux2, klein, qwen, qwen_edit),
        *(wan21, wan22, wan22_5b, z_image, hunyuan, sd3, unet),
    )
}


def make(name: str) -> tuple[Any, dict]:
    """A pipeline with random weights, always the same, and the arguments of a call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe, call = KINDS[name]()
    pipe.set_progress_bar_config(disable=True)
    return pipe, {**call, "output_type": "pt"}


def picture(pipe: Any, call: dict, seed: int = 0, **changes: Any) -> torch.Tensor:
    """What the pipeline makes of a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.as_tensor(pipe(**{**call, "generator": generator, **changes})[0])
