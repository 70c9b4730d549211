"""Prompts, and the picture a video begins with, to the embeddings of HunyuanVideo.

Shapes: P prompts, T text tokens, I tokens of a picture, W width of the language model.
"""

from collections.abc import Sequence
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from PIL import Image

from pure.models.common.truncation import Reader, Window

CLIP_LENGTH = 77
LAYERS_LEFT_OUT = 2  # the last ones of the language model, whose output is not used
END_OF_HEADER = "<|end_header_id|>"


@attrs.frozen(kw_only=True)
class Template:
    """What is put around a prompt, in the words the model was trained with.

    Attributes:
        text: with `{}` where the prompt goes.
        crop: tokens before the prompt, which are read and left out.
        picture: position of the token that stands for the picture.
        size: I, tokens that a picture becomes.
    """

    text: str
    crop: int
    picture: int = 0
    size: int = 0


ASPECTS = (
    "1. The main content and theme of the video."
    "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects."
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects."
    "4. background environment, light, style and atmosphere."
    "5. camera angles, movements, and transitions used in the video:<|eot_id|>"
)
FROM_TEXT = Template(
    text="<|start_header_id|>system<|end_header_id|>\n\n"
    "Describe the video by detailing the following aspects: " + ASPECTS + "<|start_header_id|>user<|end_header_id|>\n\n"
    "{}<|eot_id|>",
    crop=95,
)
FROM_IMAGE = Template(
    text="<|start_header_id|>system<|end_header_id|>\n\n<image>\n"
    "Describe the video by detailing the following aspects according to the reference image: " + ASPECTS + "\n\n"
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    crop=103,
    picture=5,
    size=576,
)


@attrs.frozen(kw_only=True)
class Reading:
    """What the encoders make of P prompts.

    Attributes:
        text: (P, T, W).
        mask: (P, T) bool, True where a token takes part, these first; None: all do.
        pooled: (P, width of the pooled embedding).
    """

    text: torch.Tensor
    mask: torch.Tensor | None
    pooled: torch.Tensor

    def padded(self, length: int) -> "Reading":
        """Return the same with `length` tokens, at least T, of which the new ones take no part."""
        more = length - self.text.shape[1]
        mask = torch.ones_like(self.text[:, :, 0], dtype=torch.bool) if self.mask is None else self.mask
        return Reading(text=F.pad(self.text, (0, 0, 0, more)), mask=F.pad(mask, (0, more)), pooled=self.pooled)

    def trimmed(self) -> "Reading":
        """Return the same without the tokens that take part in no prompt."""
        if self.mask is None:
            return self
        longest = int(self.mask.sum(dim=1).max())
        mask = self.mask[:, :longest]
        return Reading(text=self.text[:, :longest], mask=None if bool(mask.all()) else mask, pooled=self.pooled)


@attrs.frozen(kw_only=True, eq=False)
class TextReader(Reader):
    """A language model (Llama; from images Llava), one vector per token, and CLIP, one vector per prompt.

    Attributes:
        tokenizer_2: of CLIP.
        text_encoder_2: CLIP.
        template: what is put around a prompt for the language model.
    """

    tokenizer_2: Any
    text_encoder_2: Any
    template: Template = FROM_TEXT

    def __call__(self, texts: Sequence[str], length: int) -> Reading:
        """Read prompts as `length` tokens each, by padding or truncation."""
        ids, mask = self.tokens(texts, length)
        crop, model = self.template.crop, self.text_encoder
        with torch.no_grad():
            states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        text = states[-(LAYERS_LEFT_OUT + 1)].to(model.dtype)
        return Reading(text=text[:, crop:], mask=mask[:, crop:].bool(), pooled=self.pool(texts))

    def tokens(self, texts: Sequence[str], length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and mask (P, crop + `length`) of prompts in their template."""
        found = self.windows(length)[0].tokens(texts)
        device = self.text_encoder.device
        return found["input_ids"].to(device), found["attention_mask"].to(device)

    def pool(self, texts: Sequence[str]) -> torch.Tensor:
        """Return pooled embeddings (P, width)."""
        ids = self.windows(0)[1].tokens(texts)["input_ids"]
        with torch.no_grad():
            return self.text_encoder_2(ids.to(self.text_encoder_2.device), output_hidden_states=False).pooler_output

    def windows(self, length: int) -> tuple[Window, Window]:
        """Return what the language model and CLIP read; see the base."""
        crop, written = self.template.crop, self.template.text.format
        whole = Window(self.tokenizer, crop + length, written, before=crop, reader="the language model")
        return whole, Window(self.tokenizer_2, CLIP_LENGTH, reader="the pooled embedding (CLIP)")


@attrs.frozen(kw_only=True, eq=False)
class PictureReader(TextReader):
    """The same with a language model that sees a picture beside every prompt.

    Attributes:
        image_processor: prepares the picture.
    """

    image_processor: Any
    template: Template = FROM_IMAGE

    def length(self, length: int, stride: int) -> int:
        """Return T for prompts of `length` tokens and every `stride`-th token of the picture."""
        # Of the template's end four tokens say that an answer follows; they are left out.
        return -(-self.template.size // stride) + length - 4

    def look(self, texts: Sequence[str], picture: Image.Image, length: int, stride: int) -> Reading:
        """Read a picture and each prompt: every `stride`-th token of the picture, then the prompt's.

        Raises:
            ValueError: the picture's token is not where the template says, or in a prompt too.
        """
        ids, masks = self.tokens(texts, length)
        pixels = self.image_processor(picture, return_tensors="pt").pixel_values.to(ids.device)
        rows = [self._row(row, mask, pixels, stride) for row, mask in zip(ids, masks, strict=True)]
        text, mask = (torch.stack(column) for column in zip(*rows, strict=True))
        return Reading(text=text, mask=mask, pooled=self.pool(texts))

    def _row(
        self, ids: torch.Tensor, mask: torch.Tensor, pixels: torch.Tensor, stride: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return text (T, W) and mask (T,) of one prompt."""
        model, start, size = self.text_encoder, self.template.picture, self.template.size
        special, padding = model.config.image_token_index, model.config.pad_token_id
        where = (ids == special).nonzero().flatten().tolist()
        if where != [start]:
            raise ValueError(
                f"the tokenizer puts the picture's token at {where}, the template at {start}; "
                "take it out of the prompt, if it is there"
            )
        wide = torch.cat([ids[:start], ids.new_full((size,), special), ids[start + 1 :]]).unsqueeze(0)
        seen = (wide != padding).to(mask.dtype)
        places = (seen.cumsum(-1) - 1).masked_fill(seen == 0, 1)
        with torch.no_grad():
            states = model(
                input_ids=wide, attention_mask=seen, position_ids=places, pixel_values=pixels, output_hidden_states=True
            ).hidden_states
        states = states[-(LAYERS_LEFT_OUT + 1)][0].to(model.dtype)
        crop, end, shift = self.template.crop, self._end(ids), size - 1
        text = torch.cat([states[shift + crop : shift + end - 4], states[shift + end :]])
        kept = torch.cat([mask[crop : end - 4], mask[end:]]).bool()
        image = states[start : start + size][::stride]
        return torch.cat([image, text]), torch.cat([torch.ones_like(kept[:1]).expand(len(image)), kept])

    def _end(self, ids: torch.Tensor) -> int:
        """Return the position after the last header of the template; the last one where truncation cut it off."""
        header = self.tokenizer.convert_tokens_to_ids(END_OF_HEADER)
        found = (ids == header).nonzero().flatten().tolist()
        return found[-1] + 1 if len(found) > 2 else len(ids)
