"""Text encoders of which every rank holds a part: the embeddings of one process, and less memory."""

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from pure.distributed import Sizes, make_mesh, tensor_parallel_module
from pure.models import encoder_sharding
from tests.support import chat_pipelines, qwen_image_pipelines, ranks, tiny
from tests.support.sharded import Collectives, difference

# Three heads of keys, of six heads: they do not divide evenly between two ranks.
TEXT: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "vocab_size": 300,
}
T5 = {**tiny.T5_SIZES, "num_heads": 5, "feed_forward_proj": "gated-gelu"}
CLIP = {"model_type": "clip_vision_model", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def llava() -> Any:
    """A LLaVA, whose text model is a Llama and whose pictures a CLIP reads."""
    vision = {**CLIP, "intermediate_size": 16, "image_size": 8, "patch_size": 4, "projection_dim": 16}
    config = transformers.LlavaConfig(
        text_config={**TEXT, "model_type": "llama"}, vision_config=vision, image_token_index=7
    )
    return transformers.LlavaForConditionalGeneration(config)


MADE: dict[str, Callable[[], Any]] = {
    "t5": lambda: transformers.T5EncoderModel(transformers.T5Config(**T5)),
    "t5-ungated": tiny.t5,
    "umt5": lambda: transformers.UMT5EncoderModel(transformers.UMT5Config(**T5)),
    "llama": lambda: transformers.LlamaModel(transformers.LlamaConfig(**TEXT)),
    "mistral": lambda: transformers.MistralModel(transformers.MistralConfig(**TEXT)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**TEXT, tie_word_embeddings=True)),
    "mistral3": chat_pipelines.mistral3,
    "qwen2.5-vl": qwen_image_pipelines.text_encoder,
    "llava": llava,
}


@functools.cache
def made(name: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MADE[name]().eval().requires_grad_(False)


IDS = torch.tensor([[11, 12, 13, 14, 15, 16], [21, 22, 23, 0, 0, 0]])
MASK = (IDS > 0).long()


def embedded(encoder: Any) -> torch.Tensor:
    """All hidden states, as the families read them: without the map to a vocabulary."""
    with torch.no_grad():
        found = getattr(encoder, "model", encoder)(input_ids=IDS, attention_mask=MASK, output_hidden_states=True)
    return torch.stack(found.hidden_states)[:, MASK.bool()]


def held(encoder: Any) -> int:
    """Bytes of parameters."""
    return sum(parameter.nbytes for parameter in encoder.parameters())


def part_of(name: str, count: int) -> Any:
    encoder, mesh = made(name), make_mesh(Sizes(ulysses=count))
    sharding = encoder_sharding(encoder)
    assert sharding is not None
    return tensor_parallel_module(encoder, sharding, mesh)


def on_a_rank(name: str, count: int) -> tuple[torch.Tensor, int, dict[str, int]]:
    """Embeddings of a part, its bytes, and what was sent."""
    before = {key: value.clone() for key, value in made(name).state_dict().items()}
    part = part_of(name, count)
    with Collectives() as watch:
        found = embedded(part)
    assert all(torch.equal(value, before[key]) for key, value in made(name).state_dict().items())
    return found, held(part), dict(watch.counts)


# What is not split: norms, and biases that are added once; of LLaVA also CLIP and what leads from it to the text.
WHOLE = {"mistral3": "norm|patch_conv|multi_modal|ln_pre"}
WHOLE |= {"qwen2.5-vl": r"norm|\.(down_)?proj\.bias|patch_embed|merger"}
WHOLE |= {"llava": "norm|vision_tower|multi_modal"}


@pytest.mark.parametrize("name", MADE)
def test_ranks_embed_as_one_process_does_and_hold_a_part(name):
    """Rounding apart: a sum over features is taken in two parts."""
    whole = embedded(made(name))
    (first, size, sent), (second, smaller, other) = ranks.run(on_a_rank, 2, name, 2)
    assert difference(first, whole) <= 1e-6 and torch.equal(first, second)
    layers = len(whole) - 1  # the first hidden state is the embedding, which is gathered
    assert sent == other == {"all_reduce": 2 * layers, "all_gather_into_tensor": 1}
    sizes = {key: value.nbytes for key, value in made(name).named_parameters()}
    alike = sum(each for key, each in sizes.items() if re.search(WHOLE.get(name, "norm"), key))
    assert size + smaller == sum(sizes.values()) + alike and size >= smaller


def test_more_ranks_than_heads_share_in_groups():
    """Four ranks and three heads of keys: two pairs, as three do not divide four."""
    whole, found = embedded(made("llama")), ranks.run(on_a_rank, 4, "llama", 4)
    assert all(difference(embedding, whole) <= 1e-6 for embedding, _, _ in found)
    assert [size for _, size, _ in found] == [size for _, size, _ in ranks.run(on_a_rank, 2, "llama", 2)] * 2
    five = [size for _, size, _ in ranks.run(on_a_rank, 4, "t5", 4)]
    assert five[0] > five[1] == five[2] == five[3]  # of five heads the first rank has two


def _seen(pixels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    return part_of("qwen2.5-vl", 2).model.visual(pixels, grid_thw=grid).pooler_output


def test_pictures_are_read_by_parts_too():
    grid = torch.tensor([[1, 4, 4]])
    pixels = torch.randn(16, 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = made("qwen2.5-vl").model.visual(pixels, grid_thw=grid).pooler_output
        assert all(difference(found, whole) <= 1e-6 for found in ranks.run(_seen, 2, pixels, grid))


def _logits() -> torch.Tensor:
    untied = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**TEXT, tie_word_embeddings=False))
    untied.load_state_dict({**made("qwen3").state_dict()})
    sharding = encoder_sharding(untied)
    assert sharding is not None
    with torch.no_grad():
        return tensor_parallel_module(untied, sharding, make_mesh(Sizes(tp=2)))(input_ids=IDS).logits


def test_the_map_to_a_vocabulary_is_split_too():
    with torch.no_grad():
        whole = made("qwen3")(input_ids=IDS).logits
    assert all(difference(found, whole) <= 1e-6 for found in ranks.run(_logits, 2))


def test_what_stays_whole():
    assert encoder_sharding(tiny.clip()) is None


def _alone() -> bool:
    encoder, mesh = made("t5"), make_mesh(Sizes())
    sharding = encoder_sharding(encoder)
    assert sharding is not None
    return tensor_parallel_module(encoder, sharding, mesh) is encoder


def test_one_rank_has_all_of_it():
    assert ranks.run(_alone, 1) == [True]
