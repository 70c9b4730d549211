"""Transformers of diffusers in an accelerated pipeline: cut into blocks, in one piece, or refused by name."""

import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import pure
from pure.models import CheckpointError
from pure.transforms import dbcache, guided, scm
from tests.support.generic import Family
from tests.support.mini import EVERY, Mini, mini, narrowed

pytestmark = [
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning"),
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
ALTERNATE = dbcache(front=1, threshold=1e9, warmup=2, max_continuous=1)
MASK = scm(mask="110101", policy="static")
NAMED = {family.name: family for family in EVERY}
QUICK = ("flux", "ernie", "hunyuandit", "ltx2", "latte", "z-image", "kandinsky5", "stableaudio", "wananimate")
# Of several samples some cannot be told apart: text and picture have a modulation each, in one table.
ALONE = ("qwen21",)
BOTH = [(family, batch) for family in EVERY for batch in (1, 2) if not (batch > 1 and family.name in ALONE)]
CASES = [
    pytest.param(family, batch, id=f"{family}-{batch}", marks=() if family.name in QUICK else pytest.mark.slow)
    for family, batch in BOTH
]


def equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("family", "batch"), CASES)
def test_the_same_bits_without_a_skip_and_true_skips_with_a_mask(family: Family, batch: int):
    pipe, call = mini(family, batch)
    expected = pipe(call)
    with pure.accelerate(pipe, pure.identity) as report:
        assert equal(pipe(call), expected)
    assert not report.last.plain and report.last.computed == 6 * batch
    with pure.accelerate(pipe, MASK) as report:
        found = pipe(call)
    assert report.last.skipped == 2 * batch and not equal(found, expected)
    assert all(each.isfinite().all() for each in found)
    assert not report.last.notes


@pytest.mark.parametrize(("family", "batch"), CASES)
def test_a_threshold_on_blocks_or_a_refusal_by_name_before_the_run(family: Family, batch: int):
    pipe, call = mini(family, batch)
    if not family.blocks:
        with pytest.raises(ValueError, match=r"no front block whose change .* choose the steps with scm\(mask"):
            pure.accelerate(pipe, ALTERNATE)
        return
    with pure.accelerate(pipe, ALTERNATE) as report:
        pipe(call)
    assert [info.computed for info in report.last.branches["transformer/0"]] == [
        (index < 2 or index % 2 == 1,) * batch for index in range(6)
    ]


LEFT = [[2], [0], [1, 2], [2, 0]]


@pytest.mark.filterwarnings("ignore:no step of this call was skipped")
@pytest.mark.parametrize("left", LEFT, ids=str)
@pytest.mark.parametrize("name", ["sd3", "ltx2", "ernie", "hunyuandit"])
def test_samples_that_go_on_are_known_by_their_conditioning(name: str, left: list[int]):
    """Three samples, of which some go on: each predicts and decides as it does alone."""
    family = NAMED[name]
    cache = MASK if not family.blocks else dbcache(front=1, threshold=0.6, warmup=1)
    pipe, call = mini(family, 3)
    alone, decided = [], []
    for row in range(3):
        with pure.accelerate(pipe, cache) as report:
            one = {name: narrowed(value, 3, [row]) for name, value in call.items()}
            alone.append(pipe(one))
        decided.append([info.computed[0] for info in report.last.branches["transformer/0"]])
    with pure.accelerate(pipe, cache) as report:
        found = pipe(call, rows=lambda index: left if index == 3 else None)
    (infos,) = report.last.branches.values()
    assert [len(info.decisions) for info in infos] == [3, 3, 3, *(len(left),) * 3]
    assert any(not all(row) for row in decided)
    for place, row in enumerate(left):
        assert [info.computed[place] for info in infos[3:]] == decided[row][3:]
        for mine, theirs in zip(found, alone[row], strict=True):
            torch.testing.assert_close(mine[place], theirs[0], rtol=0, atol=1e-4)


def test_samples_that_cannot_be_told_apart_are_refused_by_name():
    pipe, call = mini(NAMED["qwen21"], 2)
    said = r"samples of a batch of QwenImage21Transformer2DModel cannot be told apart .* run one sample at a time"
    with pytest.raises(CheckpointError, match=said), pure.accelerate(pipe, ALTERNATE):
        pipe(call)


class Untimed(torch.nn.Module):
    """A transformer of tokens, which has no timestep."""

    def forward(self, input_ids: Any) -> Any:
        return input_ids


def test_a_model_without_a_timestep_is_refused_by_name():
    with pytest.raises(CheckpointError, match="Untimed takes no timestep, so it has no steps that could be skipped"):
        pure.accelerate(Mini(Untimed()), MASK)


class Winding(torch.nn.Module):
    """The last block reads what the first one returned; nobody has listed it."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(3))

    def forward(self, hidden_states: Any, timestep: Any, return_dict: bool = True) -> Any:
        first = self.blocks[0](hidden_states + timestep.view(-1, 1))
        return (self.blocks[2](self.blocks[1](first).relu() + first),)


def test_what_is_not_known_to_be_uncuttable_runs_in_one_piece_with_a_mask_and_says_so():
    pipe = Mini(Winding().eval().requires_grad_(False))
    call = {"hidden_states": torch.ones(2, 4), "timestep": torch.ones(2)}
    expected = pipe(call)
    with pure.accelerate(pipe, pure.identity):
        assert equal(pipe(call), expected)
    with pure.accelerate(pipe, MASK) as report:
        pipe(call)
    assert report.last.skipped == 4
    assert [(note.kind, note.text.split(":")[0]) for note in report.last.notes] == [
        ("note", "Winding runs in one piece")
    ]
    said = r"Winding .*; a step mask can skip the model in one piece: scm\(mask=..., policy='static'\)"
    with pytest.raises(CheckpointError, match=said), pure.accelerate(pipe, ALTERNATE):
        pipe(call)


def test_several_outputs_cannot_be_a_record():
    pipe, call = mini(NAMED["ltx2"])

    def record(index: int, arguments: dict) -> dict:
        pipe.transformer(**arguments)
        return arguments

    with pytest.raises(CheckpointError, match="returns several things can be accelerated with return_dict=False"):
        with pure.accelerate(pipe, pure.identity):
            pipe(call, between=record)


def test_a_pipeline_of_ernie_image_without_guidance_and_with():
    family = NAMED["ernie"]
    vae: Any = diffusers.AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()
    parts: Any = {"text_encoder": None, "tokenizer": None, "vae": vae, "transformer": family.build()}
    pipe: Any = diffusers.ErnieImagePipeline(scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), **parts)
    pipe.set_progress_bar_config(disable=True)
    text = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0))
    call = {"prompt_embeds": [text[0]], "negative_prompt_embeds": [text[1, :5]], "num_inference_steps": 6}
    for scale in (1.0, 3.0):

        def picture(scale: float = scale) -> torch.Tensor:
            noise = torch.Generator().manual_seed(1)
            return pipe(**call, guidance_scale=scale, height=64, width=64, generator=noise, output_type="latent").images

        expected = picture()
        with pure.accelerate(pipe, pure.identity):
            assert torch.equal(picture(), expected)
        with pure.accelerate(pipe, ALTERNATE) as report:
            assert not torch.equal(picture(), expected)
        assert report.last.skipped == (2 if scale > 1 else 1) * 2


def test_guidance_belongs_to_the_pipeline():
    pipe, _ = mini(NAMED["ltx2"])
    with pytest.raises(ValueError, match=r"leave guided\(...\) out"):
        pure.accelerate(pipe, guided(scale=2.0))


def test_the_document_lists_every_transformer_of_diffusers():
    text = (Path(__file__).parents[2] / "docs" / "accelerate.md").read_text()
    rows = dict(re.findall(r"^\| (cut into blocks|in one piece|not tried) \| (.*) \|$", text, re.MULTILINE))
    listed = {name: set(re.findall(r"`(\w+)`", row)) for name, row in rows.items()}
    assert listed["cut into blocks"] == {family.kind for family in EVERY if family.blocks}
    assert listed["in one piece"] == {family.kind for family in EVERY if not family.blocks}
    known = {family.kind for family in EVERY}
    every = {
        name
        for name in dir(diffusers)
        if "Transformer" in name and ".models.transformers." in getattr(getattr(diffusers, name), "__module__", "")
    }
    every |= {"HunyuanDiT2DModel", "StableAudioDiTModel", "StableAudio3DiTModel", "LuminaNextDiT2DModel"}
    assert listed["not tried"] == every - known
