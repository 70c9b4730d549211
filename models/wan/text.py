"""Prompts to embeddings, through the tokenizer and the UMT5 encoder of a Wan checkpoint.

Shapes: P prompts, T text tokens.
"""

import html
from collections.abc import Sequence

import attrs
import torch

from pure.models.common.truncation import Reader, Window


def clean(text: str) -> str:
    r"""Return a prompt with its HTML entities resolved and white space made single spaces.

    >>> clean("  cats\n &amp;amp; dogs ")
    'cats & dogs'
    """
    return " ".join(html.unescape(html.unescape(text)).split())


@attrs.frozen(kw_only=True, eq=False)
class TextReader(Reader):
    """UMT5, which gives one vector per token; what pads a shorter prompt is zeros, and takes part in attention."""

    def __call__(self, texts: Sequence[str], length: int) -> torch.Tensor:
        """Return embeddings (P, T, width); T is `length`, by padding or truncation."""
        found = self.windows(length)[0].tokens(texts)
        device = self.text_encoder.device
        mask = found.attention_mask.to(device)
        with torch.no_grad():
            embedded = self.text_encoder(found.input_ids.to(device), mask).last_hidden_state
        return torch.where(mask.bool().unsqueeze(-1), embedded, torch.zeros_like(embedded))

    def windows(self, length: int) -> tuple[Window, ...]:
        """Return what the encoder reads; see the base."""
        return (Window(self.tokenizer, length, written=clean, reader="the text embedding"),)
