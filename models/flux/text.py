"""Prompts to embeddings, through the tokenizers and encoders of a FLUX.1 checkpoint.

Shapes: P prompts, T text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch

from pure.models.common.truncation import Reader, Window

if TYPE_CHECKING:
    from transformers import CLIPTextModel, T5EncoderModel

GROW = "; a larger max_sequence_length reads more"


@attrs.frozen(kw_only=True, eq=False)
class TextEncoder(Reader):
    """CLIP, which gives one pooled vector per prompt, and T5, which gives one vector per token."""

    tokenizer_2: Any
    text_encoder: CLIPTextModel
    text_encoder_2: T5EncoderModel

    def __call__(self, prompt: Sequence[str], max_sequence_length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return text (P, T, width) and pooled (P, width); T is `max_sequence_length`, by padding or truncation."""
        clip, t5 = self.text_encoder, self.text_encoder_2
        short, long = (window.tokens(prompt).input_ids for window in self.windows(max_sequence_length))
        with torch.no_grad():
            pooled = clip(short.to(clip.device), output_hidden_states=False).pooler_output
            text = t5(long.to(t5.device), output_hidden_states=False)[0]
        return text.to(t5.dtype), pooled.to(clip.dtype)

    def windows(self, length: int) -> tuple[Window, Window]:
        """Return what CLIP and T5 read; see the base."""
        short = Window(self.tokenizer, self.tokenizer.model_max_length, reader="the pooled embedding (CLIP)")
        return short, Window(self.tokenizer_2, length, reader="the text embedding (T5)", cure=GROW)
