"""Parts of pipelines and of their checkpoints, each alone and at its borders."""

import io
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import rich.console
import torch
from PIL import Image

from pure.info import Decision, Info
from pure.models import CheckpointError, batch, embedded, load_pipeline
from pure.models.checkpoint.misfit import check_numbers
from pure.models.checkpoint.weights import Stored
from pure.models.components import text_encoders, with_text_encoders
from pure.models.errors import NotFiniteError
from pure.models.flux.text import TextEncoder
from pure.models.generation import Generation, _tag
from pure.models.hunyuan_video.pipeline import HunyuanVideoPipeline
from pure.models.progress import COMPUTED, SKIPPED, Progress
from pure.models.qwen_image.text import DESCRIBE, DROPPED, LONGEST, TextReader
from pure.models.request import MOST_PROMPTS, Request, prompts
from pure.models.wan.pipeline import _images
from pure.models.z_image.pipeline import ZImagePipeline
from pure.testing.situation import Model
from tests.support import hunyuan_video, wan
from tests.support.flux import FLUX_DEV
from tests.support.flux2 import FLUX2_DEV
from tests.support.ovis import OVIS
from tests.support.qwen_image import QWEN_IMAGE
from tests.support.z_image import Z_IMAGE


def numbers(name: str, dtype: str) -> None:
    file = Path("weights.safetensors")
    check_numbers(Path("vae"), {"a.weight": Stored(file, (2,), "F32"), name: Stored(file, (2,), dtype)})


@pytest.mark.parametrize("dtype", ["I64", "I32", "BOOL", "U8"])
def test_buffers_may_be_whole_numbers_and_parameters_not(dtype: str) -> None:
    numbers("position_ids", dtype)
    for name in ("b.weight", "b.bias"):
        with pytest.raises(CheckpointError, match=rf"stores numbers as other than .*: {name} \({dtype}\)"):
            numbers(name, dtype)
    with pytest.raises(CheckpointError, match=r"position_ids \(I8\)"):
        numbers("position_ids", "I8")


def test_there_may_be_as_many_prompts_as_are_named() -> None:
    assert len(prompts(["a"] * MOST_PROMPTS)) == MOST_PROMPTS == 10_000


def test_hunyuan_reads_as_many_tokens_as_the_request_has() -> None:
    pipe: Any = SimpleNamespace(reader=lambda texts, longest: (texts, longest), defaults=None)
    request: Any = SimpleNamespace(max_sequence_length=77)
    assert HunyuanVideoPipeline.read(pipe, request, ("a",), False) == (("a",), 77)


def test_qwen_reads_all_tokens_of_a_prompt_and_drops_its_own() -> None:
    """Those of the conversation around the prompt come on top of the limit."""
    asked: dict[str, Any] = {}

    def tokenizer(texts: list[str], **options: Any) -> Any:
        asked.update(options)
        places = torch.arange(options["max_length"]).expand(len(texts), -1)
        return SimpleNamespace(input_ids=places, attention_mask=(places < options["max_length"] - 5).long())

    def model(input_ids: torch.Tensor, **_: Any) -> Any:
        return SimpleNamespace(last_hidden_state=input_ids[..., None].float())

    dropped, encoder = DROPPED[DESCRIBE], SimpleNamespace(model=model, device=torch.device("cpu"))
    reader = TextReader(tokenizer=tokenizer, text_encoder=encoder)
    (found,) = reader(["a"], LONGEST)
    assert asked["truncation"] and asked["max_length"] == LONGEST + dropped
    assert found[:, 0].tolist() == list(range(dropped, LONGEST + dropped - 5))
    assert reader(["a"], 7)[0][:, 0].tolist() == list(range(dropped, dropped + 7))


@pytest.mark.parametrize(("given", "scale"), [(None, 6.0), (0.0, None), (-1.0, None), (0.5, 1.5), (1.0, 2.0)])
def test_z_image_is_guided_above_zero(given: float | None, scale: float | None) -> None:
    pipe: Any = SimpleNamespace(cfg="guidance_scale", scale=lambda request, name: 5.0 if given is None else given)
    found = ZImagePipeline.guidance(pipe, SimpleNamespace())  # type: ignore[arg-type]
    assert (found and found.scale) == scale


FROM_TEXT, FROM_PICTURE, OWN_TIMES = "text-to-video", "image-to-video", {"expand_timesteps": True}
EMBEDDED = {"image_dim": 24, "added_kv_proj_dim": 40 * 128}


@pytest.mark.parametrize(
    ("task", "index", "config", "count"),
    [
        (FROM_TEXT, {}, {}, (0, 0)),
        (FROM_TEXT, OWN_TIMES, {}, (0, 1)),
        (FROM_PICTURE, OWN_TIMES, {}, (1, 1)),
        (FROM_PICTURE, {}, {}, (1, 2)),
        (FROM_PICTURE, {}, EMBEDDED, (1, 1)),
        (FROM_PICTURE, {}, {**EMBEDDED, "pos_embed_seq_len": 10}, (2, 2)),
    ],
)
def test_the_pictures_that_wan_takes(task: str, index: Any, config: Any, count: tuple[int, int]) -> None:
    found: Any = SimpleNamespace(kind=SimpleNamespace(task=task), index=index, transformer=config)
    assert _images(found) == count


FAMILIES = (FLUX_DEV, FLUX2_DEV, OVIS, QWEN_IMAGE, Z_IMAGE, *wan.MODELS, *hunyuan_video.MODELS)


@pytest.mark.parametrize("model", FAMILIES, ids=str)
def test_every_product_of_a_block_is_divided_under_tensor_parallelism(model: Model) -> None:
    """One that is not is held whole by every rank, which shows in no number."""
    denoiser, params = model.first, model.params.get("high", model.params)
    prefixes = tuple({block.prefix for block in denoiser.blocks})
    assert denoiser.sharding is not None
    whole = {name for name, tensor in params.items() if tensor.ndim == 2 and denoiser.sharding.find(name) is None}
    # Z-Image divides no modulation: an input of 256 numbers at most, the same for all tokens.
    assert not [name for name in whole if name.startswith(prefixes) and "adaLN_modulation" not in name]


@pytest.mark.parametrize("checkpoint", [False, True])
def test_gradients_are_in_the_memory_of_one_step_where_that_is_asked(
    checkpoint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, asked, advance = load_pipeline(embedded()), [], batch.advance

    def watched(one: Any, checkpoint: bool = False) -> Any:
        asked.append(checkpoint)
        return advance(one, checkpoint)

    monkeypatch.setattr(batch, "advance", watched)
    pipe.generate("a", steps=2, max_sequence_length=8, checkpoint=checkpoint)
    assert asked == [checkpoint] * 2


def test_every_text_encoder_of_a_pipeline_is_found_and_can_be_replaced() -> None:
    first, second, other = (torch.nn.Linear(1, 1) for _ in range(3))
    pipe: Any = load_pipeline(embedded())
    reader = TextEncoder(tokenizer=None, tokenizer_2=None, text_encoder=first, text_encoder_2=second)  # type: ignore
    both = attrs.evolve(pipe, reader=reader)
    assert text_encoders(both) == {"text_encoder": first, "text_encoder_2": second}
    found = text_encoders(with_text_encoders(both, {"text_encoder_2": other}))
    assert found == {"text_encoder": first, "text_encoder_2": other}


def test_an_error_of_samples_takes_no_pixels_to_another_process() -> None:
    error = NotFiniteError({1: "a"}, torch.zeros(2, 3), torch.zeros(2, 4))
    sent = pickle.loads(pickle.dumps(error))
    assert (str(sent), sent.samples, sent.pixels, sent.latents) == ("a", {1: "a"}, None, None)


def test_a_live_line_shows_the_newest_steps() -> None:
    console = rich.console.Console(file=io.StringIO(), force_terminal=True, width=60)
    with Progress(console, "image", 40) as progress:
        progress.infos += [Info((Decision(n, n < 30, "mask", None, 3),)) for n in range(40)]
        shown = progress._line().plain
    room = 60 - len("image") - 36
    marks = ("#", ".") if progress.plain else (COMPUTED[0], SKIPPED[0])
    assert shown.startswith(f"image ...{marks[0] * (room - 10)}{marks[1] * 10} 40/40")


def test_what_was_made_once_is_of_these_pictures_and_this_key() -> None:
    made, pictures = [], [Image.new("RGB", (1, 1)) for _ in range(2)]
    whole = Request(prompts=("a",), images=tuple(pictures))
    for request in (whole, attrs.evolve(whole, steps=3), attrs.evolve(whole, images=(pictures[1],))):
        for key in ("x", "y", "x"):
            request.once(key, lambda request=request, key=key: made.append((key, len(request.images))))
    assert made == [("x", 2), ("y", 2), ("x", 1), ("y", 1)]


def test_a_prompt_read_at_another_length_is_read_again() -> None:
    pipe: Any = load_pipeline(embedded())
    request = pipe.request("a", steps=1, max_sequence_length=8)
    longer = attrs.evolve(request, max_sequence_length=12)
    assert [pipe.conditioning(each).text.shape[1] for each in (request, longer, request)] == [8, 12, 8]


def test_a_notebook_shows_the_middle_frame_of_a_video() -> None:
    pixels = torch.linspace(0, 1, 5).view(1, 5, 1, 1, 1).expand(1, 5, 3, 2, 2)
    shown = Generation(pixels=pixels, latents=torch.zeros(1, 1), infos=())
    frames: Any = shown.images[0]
    places = [_tag(frame) in shown._repr_html_() for frame in frames]
    assert places == [False, False, True, False, False]
