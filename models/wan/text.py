"""Prompts to embeddings, through the tokenizer and the UMT5 encoder of a Wan checkpoint.

Shapes: P prompts, T text tokens.
"""

import html
import warnings
from collections.abc import Sequence
from typing import Any

import attrs
import torch


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
        """Return embeddings (P, T, width); T is `length`, by padding or truncation.

        Warns where a prompt is truncated.
        """
        cleaned = [clean(text) for text in texts]
        found = self.tokenizer(cleaned, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        self._warn(cleaned, length)
        device = self.text_encoder.device
        mask = found.attention_mask.to(device)
        with torch.no_grad():
            embedded = self.text_encoder(found.input_ids.to(device), mask).last_hidden_state
        return torch.where(mask.bool().unsqueeze(-1), embedded, torch.zeros_like(embedded))

    def _warn(self, texts: Sequence[str], length: int) -> None:
        for text, whole in zip(texts, self.tokenizer(list(texts)).input_ids, strict=True):
            if len(whole) > length:
                # The encoder ends a prompt with one token, which truncation keeps.
                lost = self.tokenizer.decode(whole[length - 1 : -1], skip_special_tokens=True)
                warnings.warn(
                    f"the text embedding reads {length} tokens and the prompt {text!r} has {len(whole)}; "
                    f"it does not see {lost!r}",
                    stacklevel=6,
                )
