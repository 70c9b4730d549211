"""Prompts, and pictures to edit, to embeddings: Qwen2.5-VL as Qwen-Image reads it.

The prompt stands in a fixed conversation; of the last hidden states those of its beginning,
which is the same for all, are dropped. Texts keep their own lengths here.

Shapes: T text tokens, of each text another number.
"""

import functools
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from PIL import Image

from pure.models.common.truncation import Reader, Window

SYSTEM, USER, END = "<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
DESCRIBE = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background:"
)
EDIT = (
    "Describe the key features of the input image (color, shape, size, texture, objects, background), then explain "
    "how the user's text instruction should alter or modify the image. Generate a new image that meets the user's "
    "requirements while maintaining consistency with the original input where appropriate."
)
# Tokens of the beginning, as the checkpoints' own tokenizer counts them.
DROPPED = {DESCRIBE: 34, EDIT: 64}
LONGEST = 1024  # text tokens of a prompt without pictures
PICTURE = "<|image_pad|>"


def conversation(instruction: str, prompt: str) -> str:
    """Return the text that stands around a prompt, and the prompt."""
    return f"{SYSTEM}{instruction}{USER}{prompt}{END}"


@attrs.frozen(kw_only=True, eq=False)
class TextReader(Reader):
    """Reads prompts alone, for text-to-image."""

    def __call__(self, texts: Sequence[str], longest: int) -> list[torch.Tensor]:
        """Return an embedding (T, width) of each text, T at most `longest`."""
        whole, dropped = [conversation(DESCRIBE, text) for text in texts], DROPPED[DESCRIBE]
        limit = LONGEST + dropped
        tokens = self.tokenizer(whole, padding=True, max_length=limit, truncation=True, return_tensors="pt")
        hidden = _read(self.text_encoder, tokens.input_ids, tokens.attention_mask)
        return [row[mask.bool()][dropped:][:longest] for row, mask in zip(hidden, tokens.attention_mask, strict=True)]

    def windows(self, length: int) -> tuple[Window, ...]:
        """Return what the language model reads; see the base."""
        around, dropped = ", with the end of the conversation it stands in", DROPPED[DESCRIBE]
        written = functools.partial(conversation, DESCRIBE)
        return (Window(self.tokenizer, dropped + length, written, before=dropped, last=0, around=around),)


@attrs.frozen(kw_only=True, eq=False)
class PictureReader(Reader):
    """Reads prompts that speak of pictures, whole, for edits; `numbered` ones are called Picture 1, Picture 2 ..."""

    image_processor: Any
    numbered: bool

    def __call__(self, texts: Sequence[str], pictures: Sequence[Image.Image]) -> list[torch.Tensor]:
        """Return an embedding (T, width) of each text, read beside all `pictures`.

        Raises:
            ValueError: a text holds the mark that stands for a picture.
        """
        seen = self.image_processor(images=list(pictures), return_tensors="pt")
        sizes = [int(grid.prod()) // self.image_processor.merge_size**2 for grid in seen["image_grid_thw"]]
        marks = "".join(
            (f"Picture {number}: " if self.numbered else "") + f"<|vision_start|>{PICTURE * size}<|vision_end|>"
            for number, size in enumerate(sizes, start=1)
        )
        return [self._one(text, marks, seen) for text in texts]

    def _one(self, text: str, marks: str, seen: Any) -> torch.Tensor:
        if PICTURE in text:
            raise ValueError(f"the prompt {text!r} holds {PICTURE}, which stands for a picture; leave it out")
        tokens = self.tokenizer([conversation(EDIT, marks + text)], return_tensors="pt")
        # Without these the encoder takes the patches of a picture for a row of words.
        kinds = (tokens.input_ids == self.tokenizer.convert_tokens_to_ids(PICTURE)).int()
        ids, mask = tokens.input_ids, tokens.attention_mask
        return _read(self.text_encoder, ids, mask, mm_token_type_ids=kinds, **seen)[0, DROPPED[EDIT] :]


def _read(encoder: Any, ids: torch.Tensor, mask: torch.Tensor, **pictures: torch.Tensor) -> torch.Tensor:
    """Return the last hidden states; without the map to a vocabulary that the whole model ends with."""
    inputs = {"input_ids": ids, "attention_mask": mask, **pictures}
    with torch.no_grad():
        found = encoder.model(**{name: value.to(encoder.device) for name, value in inputs.items()}, use_cache=False)
    return found.last_hidden_state


def padded(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return embeddings (P, T, width), zeros at the end of the shorter ones, and a mask (P, T) where there are any.

    >>> text, mask = padded([torch.ones(2, 1), torch.ones(1, 1)])
    >>> text.flatten(), mask
    (tensor([1., 1., 1., 0.]), tensor([[ True,  True],
            [ True, False]]))
    """
    lengths = [len(row) for row in rows]
    text = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    if min(lengths) == max(lengths):
        return text, None
    spots = torch.arange(max(lengths), device=text.device)
    return text, spots < torch.tensor(lengths, device=text.device)[:, None]
