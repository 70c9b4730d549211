"""Whole Qwen-Image pipelines in miniature, made offline and saved as diffusers saves them."""

import functools
import json
from pathlib import Path
from typing import Any

import attrs
import numpy
import pytest
import torch
import transformers
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from PIL import Image
from transformers import BatchFeature, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from pure.models import Generation, Pipeline, load_pipeline
from pure.models.qwen_image import pipeline as pipelines
from pure.models.qwen_image.pipeline import AREA, READ_AREA
from tests.support import qwen_image as support
from tests.support import tiny

SPECIAL = ("im_start", "im_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")
# As Qwen-Image publishes it.
SCHEDULER: dict[str, Any] = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "shift": 1.0,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}
CLASSES = {each.__name__: each for each in (QwenImagePipeline, QwenImageEditPipeline, QwenImageEditPlusPipeline)}


def tokenizer() -> Qwen2Tokenizer:
    """One token per byte, after the special ones."""
    special = ["<|endoftext|>", *(f"<|{name}|>" for name in SPECIAL)]
    tokens = [*special, *tiny._byte_symbols()]
    made = Qwen2Tokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=4096)
    made.add_special_tokens({"additional_special_tokens": special[1:]})
    return made


def text_encoder() -> Qwen2_5_VLForConditionalGeneration:
    """A random Qwen2.5-VL."""
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "vocab_size": 512,
                "rope_scaling": {"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"},
                "rope_theta": 1e6,
                "max_position_embeddings": 4096,
            },
            vision_config={
                "depth": 2,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_heads": 2,
                "out_hidden_size": 32,
            },
            vision_start_token_id=3,
            vision_end_token_id=4,
            image_token_id=6,
            video_token_id=7,
        )
    ).eval()


def vae() -> AutoencoderKLQwenImage:
    """A random autoencoder of 4 channels that quarters sizes: a token stands for 8 x 8 pixels."""
    return AutoencoderKLQwenImage(
        base_dim=12,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.7, 2.0, 1.0],
    ).eval()


class Processor:
    """What diffusers asks of a Qwen2VLProcessor, whose whole wants torchvision: pictures, then words.

    It says nothing of token types: diffusers 0.42 does not pass them on, see `Typed`.
    """

    def __init__(self, words: Qwen2Tokenizer, folder: Path) -> None:
        self.words, self.images = words, transformers.AutoImageProcessor.from_pretrained(folder)

    def __call__(self, text: list[str], images: Any, padding: bool, return_tensors: str) -> BatchFeature:
        seen = self.images(images=images, return_tensors=return_tensors)
        counts = iter([int(grid.prod()) // self.images.merge_size**2 for grid in seen["image_grid_thw"]])
        whole = []
        for each in text:
            first, *rest = each.split("<|image_pad|>")
            whole.append(first + "".join("<|image_pad|>" * next(counts) + part for part in rest))
        return BatchFeature({**self.words(whole, padding=padding, return_tensors=return_tensors), **seen})


class Typed(torch.nn.Module):
    """The text encoder, told which tokens are of pictures.

    diffusers 0.42 does not tell it, and transformers 5 then reads a picture as one row of
    words (https://github.com/huggingface/diffusers/issues/14194); we do tell.
    """

    def __init__(self, encoder: Qwen2_5_VLForConditionalGeneration) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    def dtype(self) -> torch.dtype:
        return self.encoder.dtype

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    def forward(self, input_ids: torch.Tensor, **inputs: Any) -> Any:
        return self.encoder(input_ids, mm_token_type_ids=(input_ids == 6).int(), **inputs)


def lively(**changes) -> QwenImageTransformer2DModel:
    """A random transformer whose predictions depend on prompts and pictures by more than rounding."""
    model = support.transformer(joint_attention_dim=32, **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 2
    return model


def save(folder: Path, kind: str, scheduler: dict[str, Any] | None = None, **changes) -> None:
    """Save a random pipeline of class `kind`, the transformer's config with changes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts: dict[str, Any] = {
            "scheduler": FlowMatchEulerDiscreteScheduler(**(SCHEDULER if scheduler is None else scheduler)),
            "vae": vae(),
            "text_encoder": text_encoder(),
            "tokenizer": tokenizer(),
            "transformer": lively(**changes),
        }
    edits: dict[str, Any] = {} if kind == "QwenImagePipeline" else {"processor": None}
    CLASSES[kind](**parts, **edits).save_pretrained(folder)
    if edits:
        parts["tokenizer"].save_pretrained(folder / "processor")
        pictures = transformers.Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 56)
        pictures.save_pretrained(folder / "processor")
        index = folder / "model_index.json"
        entry = {"processor": ["transformers", "Qwen2VLProcessor"]}
        index.write_text(json.dumps({**json.loads(index.read_text()), **entry}))


def load(folder: Path, kind: str, dtype: torch.dtype = torch.float32) -> Any:
    """Diffusers' pipeline of a saved folder."""
    if kind == "QwenImagePipeline":
        made = QwenImagePipeline.from_pretrained(folder, dtype=dtype)
    else:
        made = CLASSES[kind].from_pretrained(folder, processor=None, dtype=dtype)
        made.processor = Processor(made.tokenizer, folder / "processor")
        made.text_encoder = Typed(made.text_encoder)
    made.set_progress_bar_config(disable=True)
    return made


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth picture of many colours."""
    rows, columns = numpy.mgrid[0:height, 0:width]
    waves = [numpy.sin((rows * (1 + k + seed) / height + columns * (3 - k) / width) * 3) for k in range(3)]
    return Image.fromarray(((numpy.stack(waves, -1) + 1) * 127).astype("uint8"))


SMALL, SMALLER = 64 * 64, 32 * 64  # pixels that pictures to edit are resized to here
SIZE: dict[str, Any] = {"height": 32, "width": 48}
ONE = [picture(60, 40)]
TWO = [picture(60, 40), picture(30, 50, seed=1)]
KINDS: dict[str, tuple[str, dict[str, Any], list[Image.Image]]] = {
    "text-to-image": ("QwenImagePipeline", {}, []),
    "edit": ("QwenImageEditPipeline", {}, ONE),
    "edit-plus-one": ("QwenImageEditPlusPipeline", {}, ONE),
    "edit-plus-two": ("QwenImageEditPlusPipeline", {}, TWO),
    "edit-2511": ("QwenImageEditPlusPipeline", {"zero_cond_t": True}, TWO),
}
EDITS = [name for name in KINDS if name != "text-to-image"]


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pipelines")
    for name, (kind, changes, _) in KINDS.items():
        save(folder / name, kind, **changes)
    return {name: folder / name for name in KINDS}


@pytest.fixture
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let diffusers resize pictures to as few pixels as we do here."""
    areas = {AREA: SMALL, READ_AREA: SMALLER}
    for module in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus):
        original = module.calculate_dimensions
        monkeypatch.setattr(module, "calculate_dimensions", lambda area, ratio, f=original: f(areas[area], ratio))


@functools.cache
def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[pipelines.QwenImagePipeline, Any]:
    """Our pipeline and diffusers'."""
    kind = KINDS[folder.name][0]
    ours = load_pipeline(folder, dtype=dtype)
    assert isinstance(ours, pipelines.QwenImagePipeline)
    if isinstance(ours, pipelines.QwenImageEditPipeline):
        assert (ours.area, ours.read_area) == (AREA, READ_AREA if "Plus" in kind else None)
        ours = attrs.evolve(ours, area=SMALL, read_area=SMALLER if "Plus" in kind else None)
    return ours, load(folder, kind, dtype)


def wanted(theirs: Any, prompt: Any, negative: Any = None, **options: Any) -> torch.Tensor:
    """What diffusers makes, options as we call them."""
    seed, pictures = options.pop("seed", 0), options.pop("images", [])
    seeds = seed if isinstance(seed, list) else [seed]
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    one = type(theirs).__name__ == "QwenImageEditPipeline"
    return theirs(
        prompt=prompt,
        negative_prompt=negative,
        num_inference_steps=options.pop("steps", 3),
        num_images_per_prompt=options.pop("images_per_prompt", 1),
        generator=generators if isinstance(seed, list) else generators[0],
        output_type=options.pop("output", "pt"),
        **({"image": pictures[0] if one else pictures} if pictures else {}),
        **{**SIZE, "true_cfg_scale": 1.0, **options},
    ).images


def made(ours: Pipeline, prompt: Any, negative: Any = None, **options: Any) -> Generation:
    """What we make."""
    usual: dict[str, Any] = {**SIZE, "seed": 0, "steps": 3, "true_cfg_scale": 1.0}
    return ours.generate(prompt, negative, **{**usual, **options})
