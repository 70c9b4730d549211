"""The denoiser: a small FLUX transformer and the text encoders that condition it.

Shapes: B batch, T = 64 image tokens, C = 32 channels.
"""

from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from pure.models.common.image import positions
from training import autoencoder, latents, text

HEADS = 4
HEAD_DIM = 32
DOUBLE_BLOCKS = 4
SINGLE_BLOCKS = 8


class Denoiser(nn.Module):
    """Transformer, CLIP and T5, trained together on flow matching."""

    image_ids: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.transformer = transformer()
        self.clip = text.clip_encoder(text.clip_tokenizer())
        self.t5 = text.t5_encoder(text.t5_tokenizer())
        self.register_buffer(
            "image_ids", positions(0, latents.TOKENS_PER_SIDE, latents.TOKENS_PER_SIDE), persistent=False
        )

    def forward(
        self,
        noisy: Tensor,
        sigma: Tensor,
        clip_ids: Tensor,
        t5_ids: Tensor,
        missing: Tensor,
    ) -> Tensor:
        """Predict noise minus picture.

        Args:
            noisy: tokens (B, T, C).
            sigma: share of noise in them, (B,), in (0, 1].
            clip_ids: token ids (B, text.TOKENS).
            t5_ids: token ids (B, text.TOKENS).
            missing: pads left out of each T5 prompt, (B,).
        """
        words = self.t5(t5_ids).last_hidden_state
        bias = text.pad_bias(missing, noisy.shape[1])
        return self.transformer(
            hidden_states=noisy,
            timestep=sigma,
            pooled_projections=self.clip(clip_ids).pooler_output,
            encoder_hidden_states=words,
            img_ids=self.image_ids,
            txt_ids=self.image_ids.new_zeros(words.shape[1], 3),
            joint_attention_kwargs={"attention_mask": bias},
            return_dict=False,
        )[0]


def transformer() -> FluxTransformer2DModel:
    """FLUX's transformer at width 128; every block starts as the identity."""
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * autoencoder.CHANNELS,
        num_layers=DOUBLE_BLOCKS,
        num_single_layers=SINGLE_BLOCKS,
        attention_head_dim=HEAD_DIM,
        num_attention_heads=HEADS,
        joint_attention_dim=text.WIDTH,
        pooled_projection_dim=text.WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(8, 12, 12),
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            if name.endswith(("norm.linear", "norm1.linear", "norm1_context.linear")):
                nn.init.zeros_(module.weight)
    for module in (model.norm_out.linear, model.proj_out):
        nn.init.zeros_(module.weight)
    return model


def loss(model: Denoiser, batch: dict[str, Tensor]) -> Tensor:
    """Flow matching: mean squared error of the velocity ``noise - picture``."""
    picture, noise, sigma = batch["picture"], batch["noise"], batch["sigma"]
    noisy = picture + sigma[:, None, None] * (noise - picture)
    predicted = model(noisy, sigma, batch["clip_ids"], batch["t5_ids"], batch["missing"])
    return F.mse_loss(predicted, noise - picture)
