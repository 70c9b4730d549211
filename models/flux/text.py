"""Prompts to embeddings, through the tokenizers and encoders of a FLUX.1 checkpoint.

Shapes: P prompts, T text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch

from pure.models.common.truncation import Window
from pure.notes import Note

if TYPE_CHECKING:
    from transformers import CLIPTextModel, T5EncoderModel

GROW = "; a larger max_sequence_length reads more"


@attrs.frozen(kw_only=True, eq=False)
class TextEncoder:
    """CLIP, which gives one pooled vector per prompt, and T5, which gives one vector per token."""

    tokenizer: Any
    tokenizer_2: Any
    text_encoder: CLIPTextModel
    text_encoder_2: T5EncoderModel

    def __call__(self, prompt: Sequence[str], max_sequence_length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return text (P, T, width) and pooled (P, width); T is `max_sequence_length`, by padding or truncation."""
        clip, t5 = self.text_encoder, self.text_encoder_2
        short, long = (window.tokens(prompt).input_ids for window in self._windows(max_sequence_length))
        with torch.no_grad():
            pooled = clip(short.to(clip.device), output_hidden_states=False).pooler_output
            text = t5(long.to(t5.device), output_hidden_states=False)[0]
        return text.to(t5.dtype), pooled.to(clip.dtype)

    def cut(self, texts: Sequence[str], length: int) -> tuple[Note, ...]:
        """Return a note on each prompt that is truncated, and by which of the two encoders."""
        return tuple(note for window in self._windows(length) for note in window.cut(texts))

    def _windows(self, length: int) -> tuple[Window, Window]:
        short = Window(self.tokenizer, self.tokenizer.model_max_length, reader="the pooled embedding (CLIP)")
        return short, Window(self.tokenizer_2, length, reader="the text embedding (T5)", cure=GROW)
