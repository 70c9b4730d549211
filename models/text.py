"""Prompts to embeddings, through the tokenizers and encoders of a FLUX.1 checkpoint.

Shapes: P prompts, T text tokens.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from transformers import CLIPTextModel, T5EncoderModel

LIMIT = 512  # text tokens that FLUX.1 was trained with


def prompts(prompt: str | Sequence[str], what: str = "prompt") -> list[str]:
    """Return one or several prompts as a list.

    Raises:
        TypeError: it is neither a string nor a sequence of strings.
        ValueError: there is none.

    >>> prompts("a red apple")
    ['a red apple']
    """
    found = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(found, Sequence) or not all(isinstance(text, str) for text in found):
        raise TypeError(f"{what} should be a string or a sequence of strings, got {prompt!r}")
    if not found:
        raise ValueError(f"{what} is an empty sequence; give at least one ('' will do)")
    return list(found)


def negatives(negative_prompt: str | Sequence[str], count: int) -> list[str]:
    """Return a negative prompt for each of `count` prompts; a single string is for all.

    Raises:
        ValueError: there are several, and not as many as prompts.
    """
    found = prompts(negative_prompt, "negative_prompt")
    if isinstance(negative_prompt, str):
        return found * count
    if len(found) != count:
        raise ValueError(f"{len(found)} negative prompts for {count} prompts; give one string, or one per prompt")
    return found


@attrs.frozen(kw_only=True, eq=False)
class TextEncoder:
    """CLIP, which gives one pooled vector per prompt, and T5, which gives one vector per token."""

    tokenizer: Any
    tokenizer_2: Any
    text_encoder: CLIPTextModel
    text_encoder_2: T5EncoderModel

    def __call__(self, prompt: Sequence[str], max_sequence_length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return text (P, T, width) and pooled (P, width); T is `max_sequence_length`, by padding or truncation.

        Warns where a prompt is truncated.

        Raises:
            ValueError: `max_sequence_length` is not in 1 to 512.
        """
        if not 1 <= max_sequence_length <= LIMIT:
            raise ValueError(f"max_sequence_length={max_sequence_length} should be in 1 to {LIMIT}")
        clip, t5 = self.text_encoder, self.text_encoder_2
        short = _tokens(self.tokenizer, prompt, self.tokenizer.model_max_length, "the pooled embedding (CLIP)")
        long = _tokens(self.tokenizer_2, prompt, max_sequence_length, "the text embedding (T5)")
        with torch.no_grad():
            pooled = clip(short.to(clip.device), output_hidden_states=False).pooler_output
            text = t5(long.to(t5.device), output_hidden_states=False)[0]
        return text.to(t5.dtype), pooled.to(clip.dtype)


def _tokens(tokenizer: Any, prompt: Sequence[str], length: int, reader: str) -> torch.Tensor:
    """Return token ids (P, length)."""
    ids = tokenizer(list(prompt), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    for text, whole in zip(prompt, tokenizer(list(prompt)).input_ids, strict=True):
        if len(whole) > length:
            # Encoders end a prompt with one token, which truncation keeps.
            lost = tokenizer.decode(whole[length - 1 : -1], skip_special_tokens=True)
            warnings.warn(
                f"{reader} reads {length} tokens and the prompt {text!r} has {len(whole)}; it does not see {lost!r}",
                stacklevel=5,
            )
    return ids.input_ids
