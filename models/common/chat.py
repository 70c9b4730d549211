"""Prompts to hidden states of a language model: what FLUX.2, Z-Image and Ovis-Image read.

A prompt stands in a conversation, which the tokenizer's own template writes.

Shapes: P texts, T tokens, W width of the language model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch

from pure.models.common.truncation import Reader, Window
from pure.models.errors import CheckpointError
from pure.models.family import Description


@attrs.frozen(kw_only=True, eq=False)
class ChatReader(Reader):
    """A tokenizer with a template, and a language model whose hidden states are the embedding.

    Attributes:
        layers: which hidden states, side by side; none for the last, normalised one.
        template: what the tokenizer's template takes besides the messages.
        system: message that goes before the prompt; messages then are lists of parts.
        instruction: words before every prompt.
        dropped: tokens at the beginning that are the same for all prompts, and left out.
        forbidden: a mark that is taken out of prompts.
    """

    layers: tuple[int, ...] = ()
    template: Mapping[str, Any] = attrs.field(factory=dict)
    system: str | None = None
    instruction: str = ""
    dropped: int = 0
    forbidden: str = ""

    def __call__(self, texts: Sequence[str], longest: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return embeddings (P, T, layers x W), and a mask (P, T), True at tokens that do not pad; T is `longest`."""
        tokens = self.windows(longest)[0].tokens(texts)
        hidden = self._hidden(tokens.input_ids, tokens.attention_mask)
        return hidden[:, self.dropped :], tokens.attention_mask[:, self.dropped :].bool().to(hidden.device)

    def windows(self, length: int) -> tuple[Window, ...]:
        """Return what the language model reads; see the base."""
        window = Window(
            self.tokenizer,
            length + self.dropped,
            written=self._conversation,
            last=0,
            options={"add_special_tokens": False},
            around=", with the conversation it stands in",
        )
        return (window,)

    def _conversation(self, text: str) -> str:
        text = self.instruction + (text.replace(self.forbidden, "") if self.forbidden else text)
        messages: list[dict[str, Any]] = [{"role": "user", "content": text}]
        if self.system is not None:
            messages = [
                {"role": role, "content": [{"type": "text", "text": part}]}
                for role, part in (("system", self.system), ("user", text))
            ]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, **self.template)

    def _hidden(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        # Without the map to a vocabulary that a whole model ends with.
        encoder = getattr(self.text_encoder, "model", self.text_encoder)
        device = self.text_encoder.device
        with torch.no_grad():
            found = encoder(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                output_hidden_states=bool(self.layers),
                use_cache=False,
            )
        if not self.layers:
            return found.last_hidden_state
        return torch.cat([found.hidden_states[layer] for layer in self.layers], dim=-1)


def depth(config: Mapping[str, Any]) -> int:
    """Return the number of layers that a language model's config describes; 0 if it does not say.

    >>> depth({"text_config": {"num_hidden_layers": 40}})
    40
    """
    return (config.get("text_config") or config).get("num_hidden_layers", 0)


def check_width(found: Description, wanted: int, name: str) -> None:
    """Refuse a language model that is not `wanted` wide, as the transformer's config says under `name`.

    Raises:
        CheckpointError: it is another width.
    """
    if (wide := width(found.configs["text_encoder"])) != wanted:
        raise CheckpointError(
            f"{found.folder}: the text encoder is {wide} wide and the transformer's {name} is {wanted}; "
            "they should agree"
        )


def width(config: Mapping[str, Any]) -> int:
    """Return the width that a language model's config describes; 0 if it does not say."""
    return (config.get("text_config") or config).get("hidden_size", 0)
