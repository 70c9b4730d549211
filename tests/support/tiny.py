"""FLUX in miniature, made offline: random weights, byte-level tokenizers, whole pipelines.

Shapes: B samples, N image tokens, T text tokens.
"""

from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

import pure
from pure.models.flux.denoiser import Conditioning

CONFIG = {
    "patch_size": 1,
    "in_channels": 4,
    "num_layers": 2,
    "num_single_layers": 4,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 4, 8),
}


def transformer(seed: int = 0, **changes) -> FluxTransformer2DModel:
    """A random diffusers transformer, `CONFIG` with changes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FluxTransformer2DModel(**{**CONFIG, **changes}).eval()


def params(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters of a module as puredit takes them."""
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def call(
    model: FluxTransformer2DModel, batch: int = 1, text: int = 8, rows: int = 4, columns: int = 4, seed: int = 0
) -> dict:
    """Arguments of the transformer's forward: random inputs, samples at different timesteps."""
    config, generator = model.config, torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(model.dtype)

    ids = torch.cartesian_prod(torch.zeros(1), torch.arange(rows).float(), torch.arange(columns).float())
    return {
        "hidden_states": normal(batch, rows * columns, config["in_channels"]),
        "encoder_hidden_states": normal(batch, text, config["joint_attention_dim"]),
        "pooled_projections": normal(batch, config["pooled_projection_dim"]),
        "timestep": torch.linspace(0.9, 0.1, batch + 2)[1:-1].to(model.dtype),
        "img_ids": ids,
        "txt_ids": torch.zeros(text, 3),
        "guidance": torch.linspace(1.5, 4.5, batch) if config["guidance_embeds"] else None,
    }


def conditioning(call: dict) -> Conditioning:
    """The conditioning that says the same as arguments of the transformer's forward."""
    return Conditioning(
        text=call["encoder_hidden_states"],
        pooled=call["pooled_projections"],
        guidance=call["guidance"],
        ids=pure.Shared(value=torch.cat([call["txt_ids"], call["img_ids"]])),
    )


def inputs(call: dict) -> tuple[Conditioning, torch.Tensor, torch.Tensor]:
    """Conditioning, latents and timesteps that say the same as arguments of the transformer's forward."""
    return conditioning(call), call["hidden_states"], call["timestep"]


def clip_tokenizer() -> CLIPTokenizer:
    """One token per byte, 77 at most."""
    tokens = ["<|startoftext|>", "<|endoftext|>"]
    tokens += [symbol + end for symbol in _byte_symbols() for end in ("", "</w>")]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def _byte_symbols() -> list[str]:
    """How byte-level tokenizers write each byte: printable ones as themselves, others shifted by 256."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def t5_tokenizer() -> T5Tokenizer:
    """One token per ASCII character, 512 at most."""
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    vocab += [(chr(c), -3.0) for c in range(33, 127)]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=512)


def clip() -> CLIPTextModel:
    """A random CLIP text encoder."""
    return CLIPTextModel(
        CLIPTextConfig(
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
            hidden_size=32,
            intermediate_size=37,
            num_attention_heads=4,
            num_hidden_layers=2,
            vocab_size=1000,
            projection_dim=32,
            max_position_embeddings=77,
        )
    ).eval()


T5_SIZES: dict[str, Any] = {
    "vocab_size": 1024,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 37,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
}


def t5() -> T5EncoderModel:
    """A random T5 encoder."""
    return T5EncoderModel(T5Config(**T5_SIZES)).eval()


def vae(channels: int = 1, shift: float = 0.0609, scale: float = 1.5035) -> AutoencoderKL:
    """A random autoencoder of `channels` that halves sizes: a token stands for 4 x 4 pixels."""
    blocks: dict[str, Any] = {  # of any number, whatever the annotations say
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (4, 4),
    }
    return AutoencoderKL(
        **blocks,
        sample_size=32,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=shift,
        scaling_factor=scale,
    ).eval()


def pipeline(*, dynamic: bool = False, **changes) -> FluxPipeline:
    """A random diffusers pipeline, the transformer's `CONFIG` with changes."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = FluxPipeline(
            scheduler=scheduler,
            vae=vae(),
            text_encoder=clip(),
            tokenizer=clip_tokenizer(),
            text_encoder_2=t5(),
            tokenizer_2=t5_tokenizer(),
            transformer=transformer(**changes),
        )
    made.set_progress_bar_config(disable=True)
    return made
