"""Tokenizers and text encoders small enough to train with the denoiser.

Every word of the prompts is one token; other words fall back to smaller pieces.

The T5 encoder attends to direct neighbours only, so that all padding beyond the
first pad has one and the same output. ``FluxPipeline`` pads to 512 tokens and masks
nothing; training runs the first ``TOKENS`` and lets the last pad stand for the
rest by adding the logarithm of their number to its attention score (``pad_bias``).
"""

from collections import Counter
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from training import data

WIDTH = 128
CLIP_LENGTH = 77
TOKENS = 10
"""Tokens of a training prompt: seven words, the end, a first pad, an inner pad."""
BUCKETS = 8
FAR_BUCKETS = [2, 3, 6, 7]
"""Relative-position buckets of two tokens and more, in either direction."""
FAR = -1e4


def words() -> list[str]:
    """Every word a training prompt can contain, sorted."""
    text = " ".join([*data.EMOJI, *data.BACKGROUNDS, "a an on background"])
    return sorted(set(text.split()))


def clip_tokenizer() -> CLIPTokenizer:
    """Byte-level BPE, merged until each known word is a single token."""
    symbols = [character for _, character in sorted(bytes_to_unicode().items())]
    vocabulary = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary += [s + end for s in symbols for end in ("", "</w>")]
    merges = byte_pair_merges(words())
    vocabulary += dict.fromkeys(left + right for left, right in merges)
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        merges=cast(Any, merges),
        model_max_length=CLIP_LENGTH,
    )


def byte_pair_merges(corpus: list[str]) -> list[tuple[str, str]]:
    """Merge the most frequent pair until every word is one symbol."""
    spelled = [[*word[:-1], word[-1] + "</w>"] for word in corpus]
    merges = []
    while True:
        counts = Counter(pair for word in spelled for pair in pairwise(word))
        if not counts:
            return merges
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        spelled = [_merge(word, best) for word in spelled]


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged, index = [], 0
    while index < len(word):
        if tuple(word[index : index + 2]) == pair:
            merged.append(pair[0] + pair[1])
            index += 2
        else:
            merged.append(word[index])
            index += 1
    return merged


def t5_tokenizer() -> T5Tokenizer:
    """Unigram: known words whole, anything else by single characters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -8.0)]
    pieces += [("\u2581" + word, -1.0) for word in words()]
    pieces += [(chr(code), -9.0) for code in range(33, 127)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def clip_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two causal layers; the state at the end token conditions every block."""
    special: dict[str, Any] = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    return CLIPTextModel(
        CLIPTextConfig(
            **special,
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CLIP_LENGTH,
        )
    )


def t5_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """One layer that mixes each word with its neighbours."""
    tied: dict[str, Any] = {"tie_word_embeddings": True}  # of every config, and no parameter of T5's
    encoder = T5EncoderModel(
        T5Config(
            **tied,
            vocab_size=len(tokenizer),
            d_model=WIDTH,
            d_kv=WIDTH // 4,
            d_ff=2 * WIDTH,
            num_layers=1,
            num_heads=4,
            relative_attention_num_buckets=BUCKETS,
            dropout_rate=0.0,
        )
    )
    keep_local(encoder)
    return encoder


def keep_local(encoder: T5EncoderModel) -> None:
    """Forbid attention beyond direct neighbours; call after every update."""
    with torch.no_grad():
        relative_bias(encoder).weight[FAR_BUCKETS] = FAR


def relative_bias(encoder: T5EncoderModel) -> nn.Embedding:
    """The table of biases by relative position, (buckets, heads)."""
    return cast(Any, encoder).encoder.block[0].layer[0].SelfAttention.relative_attention_bias


def pad_bias(missing: Tensor, image_tokens: int) -> Tensor:
    """Attention bias that makes the last text token count ``1 + missing`` times.

    Args:
        missing: pads left out of each prompt, (B,).
        image_tokens: tokens that follow the text.

    Returns:
        additive mask of shape (B, 1, 1, TOKENS + image_tokens).
    """
    bias = torch.zeros(len(missing), 1, 1, TOKENS + image_tokens)
    bias[:, 0, 0, TOKENS - 1] = torch.log1p(missing.float())
    return bias


def tokenize(tokenizer: CLIPTokenizer | T5Tokenizer, prompts: list[str]) -> Tensor:
    """Ids padded to ``TOKENS``; raises where a prompt is longer than that."""
    ids = tokenizer(prompts, padding="max_length", max_length=TOKENS, return_tensors="pt").input_ids
    if ids.shape[1] > TOKENS:
        raise ValueError(f"a prompt has {ids.shape[1]} tokens; at most {TOKENS} fit")
    return ids
