"""Prompts to embeddings, through the tokenizer and the UMT5 encoder of a Wan checkpoint.

Shapes: P prompts, T text tokens.
"""

import html
from collections.abc import Sequence
from typing import Any

import attrs
import torch

from pure.models.common.truncation import cut
from pure.notes import Note


def clean(text: str) -> str:
    r"""Return a prompt with its HTML entities resolved and white space made single spaces.

    >>> clean("  cats\n &amp;amp; dogs ")
    'cats & dogs'
    """
    return " ".join(html.unescape(html.unescape(text)).split())


@attrs.frozen(kw_only=True, eq=False)
class TextReader:
    """UMT5, which gives one vector per token; what pads a shorter prompt is zeros, and takes part in attention."""

    tokenizer: Any
    text_encoder: Any

    def __call__(self, texts: Sequence[str], length: int) -> torch.Tensor:
        """Return embeddings (P, T, width); T is `length`, by padding or truncation."""
        cleaned = [clean(text) for text in texts]
        found = self.tokenizer(cleaned, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        device = self.text_encoder.device
        mask = found.attention_mask.to(device)
        with torch.no_grad():
            embedded = self.text_encoder(found.input_ids.to(device), mask).last_hidden_state
        return torch.where(mask.bool().unsqueeze(-1), embedded, torch.zeros_like(embedded))

    def cut(self, texts: Sequence[str], length: int) -> tuple[Note, ...]:
        """Return a note on each prompt that is truncated."""
        cleaned = [clean(text) for text in texts]

        def lost(ids: Sequence[int]) -> str:  # the encoder ends a prompt with one token, which truncation keeps
            return self.tokenizer.decode(ids[length - 1 : -1], skip_special_tokens=True)

        return cut(cleaned, self.tokenizer(cleaned).input_ids, length, lost, reader="the text embedding")
