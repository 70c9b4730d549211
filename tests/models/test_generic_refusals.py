"""What cannot be cut is refused with the reason; what can be cut in part is cut in part."""

from typing import Any

import pytest
import torch

import pure
from pure.models import CheckpointError
from pure.models.adapt.adapt import adapt
from tests.support.generic import NAMED, Draw


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.linear(x) + time)


class Small(torch.nn.Module):
    """Five blocks; subclasses do something between them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block() for _ in range(5))
        self.calls = 0

    def between(self, place: int, x: torch.Tensor, seen: list[torch.Tensor]) -> torch.Tensor:
        return x

    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor, extra: Any = None) -> tuple:
        x, time, seen = hidden_states * 2, timestep.view(-1, 1, 1), []
        for place, block in enumerate(self.blocks):
            x = block(self.between(place, x, seen), time)
            seen.append(x)
        return (x * 3,)


class Reads(Small):
    """Asks for a number between the third and the fourth block."""

    def between(self, place, x, seen):
        return x * (1 if x.sum().item() > 0 else 2) if place == 3 else x


class Remembers(Small):
    """The last block reads what the first one returned."""

    def between(self, place, x, seen):
        return x + seen[0] if place == 4 else x


class ReadsAlways(Small):
    """Asks for a number between all blocks."""

    def between(self, place, x, seen):
        return x * (1 if x.sum().item() > 0 else 2)


class Scales(Small):
    """Multiplies, shifts and writes in place between the blocks, by numbers and tensors of the step."""

    def between(self, place, x, seen):
        x = x * (1.0 + place) / 2
        x += 0.25
        if place == 2:
            x[:, 1:] = x[:, 1:] - 1.0
        return torch.nn.functional.silu(x).clamp(max=3.0)


class Mixes(Small):
    """Lets the samples of a batch influence each other."""

    def forward(self, hidden_states, timestep, extra=None):
        return super().forward(hidden_states - hidden_states.mean(0, keepdim=True), timestep)


class Counts(Small):
    """Keeps something from call to call."""

    def forward(self, hidden_states, timestep, extra=None):
        self.calls += 1
        (found,) = super().forward(hidden_states, timestep)
        return (found + self.calls,)


class Writing(Block):
    def forward(self, x, time):
        x += self.linear(x)
        return x * 1.0


class Writes(Small):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(Writing() for _ in range(5))


class Grows(Small):
    """The streams become longer on the way."""

    def between(self, place, x, seen):
        return torch.cat([x, x.flip(1)], dim=1) if place == 3 else x


def built(kind: type) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().eval().requires_grad_(False)


def example(batch: int = 1) -> dict:
    draw = Draw(0)
    return {"hidden_states": draw(batch, 3, 4), "timestep": torch.linspace(0.5, 0.9, batch)}


@pytest.mark.parametrize(
    ("kind", "blocks"),
    [(Small, 5), (Scales, 5), (Reads, 3), (Grows, 3)],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_longest_run_of_blocks_with_nothing_but_streams_between(kind, blocks, batch):
    model, call = built(kind), example(batch)
    adapted = adapt(model, example=call)  # compares two inputs, bit for bit
    assert len(adapted.cut.blocks) == blocks
    assert ("then not, because" in repr(adapted)) == (blocks < 5)


@pytest.mark.parametrize(
    ("kind", "batch", "message"),
    [
        (Remembers, 1, "what Remembers returns depends on the output of blocks before the last one"),
        (
            ReadsAlways,
            1,
            r"has one block .*, blocks.0 \(item cannot be followed.*runs the model in one piece",
        ),
        (Mixes, 2, "the samples of a batch of Mixes cannot be told apart .* influence each other"),
        (Counts, 1, "Counts cut at blocks.0 to blocks.4 is not the model: predictions differ by up to 1;"),
        (Writes, 1, "blocks.0 writes into its arguments"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_models_that_cannot_be_cut(kind, batch, message):
    with pytest.raises(CheckpointError, match=message):
        adapt(built(kind), example=example(batch))


def test_a_model_without_lists_has_no_blocks():
    class Plain(torch.nn.Linear):
        def forward(self, input, timestep=None):
            return super().forward(input)

    with pytest.raises(CheckpointError, match="Plain calls no entry of any list of modules; there are no blocks"):
        adapt(Plain(4, 4), example={"input": torch.zeros(1, 4), "timestep": torch.zeros(1)})


def test_examples_without_latents_or_timestep():
    call = example()
    with pytest.raises(CheckpointError, match="the example for Small has no hidden_states; it has "):
        adapt(built(Small), example={"timestep": call["timestep"]})
    with pytest.raises(CheckpointError, match=r"has no timestep; it has .*\(say with latents= and timestep="):
        adapt(built(Small), example={"hidden_states": call["hidden_states"]})
    adapted = adapt(built(Small), example=call, latents="hidden_states", timestep="timestep")
    assert adapted.forward.latents == "hidden_states"


def test_arguments_that_may_change_under_our_hands():
    with pytest.raises(CheckpointError, match="extra holds a Generator, which cannot be part of a state"):
        adapt(built(Small), example={**example(), "extra": torch.Generator()})


def test_lists_of_entries_that_differ_from_sample_to_sample():
    with pytest.raises(CheckpointError, match="extra has one entry per sample and they differ"):
        adapt(built(Small), example={**example(2), "extra": [[(1, 2)], [(2, 1)]]})


def test_an_argument_that_happens_to_have_as_many_rows_as_samples():
    family = NAMED["flux"]
    model, call = family.build(), family.example(16)  # as many samples as image tokens
    adapted = adapt(model, example=call)
    assert adapted.forward.shared == {"img_ids"} and len(adapted.cut.blocks) == family.blocks
    assert adapt(model, example=call, shared=("img_ids",)).forward.shared == {"img_ids"}


def test_samples_that_cannot_be_told_apart_run_one_by_one():
    family = NAMED["qwen"]
    model, call = family.build(zero_cond_t=True), family.example(1)
    call = {**call, "encoder_hidden_states_mask": None}
    adapted = adapt(model, example=call)
    two = {**family.example(2), "encoder_hidden_states_mask": None}
    request = adapted.request(two)
    with pytest.raises(CheckpointError, match="2 samples cannot be told apart; run one sample at a time"):
        adapted.denoiser.init(adapted.params, request.conditioning, request.latents, 1)
    with pytest.raises(CheckpointError, match=r"given a tensor of shape \(4, 32\) for 2 and of shape \(6, 32\) for 3"):
        adapt(model, example=two)


def test_other_arguments_than_it_was_adapted_to():
    family = NAMED["flux"]
    call = family.example(1)
    adapted = adapt(family.build(), example=call)
    request = adapted.request({**call, "controlnet_block_samples": [Draw(1)(1, 16, 32)]})
    with pytest.raises(CheckpointError, match=r"is called with other arguments than .* adapt it with arguments like"):
        adapted.denoiser.init(adapted.params, request.conditioning, request.latents, 1)


class Switches(Small):
    """Does as many other things between its blocks as a number says, or leaves a block out."""

    def forward(self, hidden_states, timestep, extra: Any = 0):
        x, time = hidden_states * 2, timestep.view(-1, 1, 1)
        for place, block in enumerate(self.blocks):
            if place != -extra - 1:
                x = block(x, time)
            if place < extra:
                x = x + 1.0
        return (x * 3,)


@pytest.mark.parametrize("extra", [1, 2, 4, -1, -3, -5])
def test_other_things_between_the_blocks_than_when_it_was_adapted(extra):
    """Nothing of this shows in the shapes; what is not the model is noticed in the step that would be wrong."""
    model, call = built(Switches), {**example(), "extra": 0}
    adapted = adapt(model, example=call)
    request = adapted.request({**call, "extra": extra})
    step = pure.Step(index=0, count=1, timestep=request.timestep)
    with pytest.raises(CheckpointError, match=r"does something else|in place of block .*with arguments like these"):
        state = adapted.denoiser.init(adapted.params, request.conditioning, request.latents, 1)
        adapted.denoiser.apply(adapted.params, state, pure.Inputs(request.latents, step))
    assert len(adapt(model, example={**call, "extra": extra}).cut.blocks) == (5 if extra > 0 else 4)


def test_hooks_and_replaced_forwards():
    model = built(Small)
    handle = model.register_forward_hook(lambda *args: None)
    with pytest.raises(CheckpointError, match="Small has _forward_hooks of its own, which would see it run in pieces"):
        adapt(model, example=example())
    handle.remove()
    inside, seen = model.blocks[1].linear, []
    inside.register_forward_hook(lambda *args: seen.append(1))
    adapt(model, example=example(), check=0)
    before = len(seen)
    adapt(model, example=example(), check=1)
    assert before == 1 and len(seen) == before + 2  # hooks inside the blocks run wherever the blocks do
    vars(inside)["forward"] = lambda x: x
    with pytest.raises(CheckpointError, match=r"the forward of Small.blocks.1.linear has been replaced"):
        adapt(model, example=example())


def test_a_lora_scale_for_one_call():
    class Layer(torch.nn.Linear):
        def scale_layer(self, scale: float) -> None:
            raise AssertionError(scale)

    model = built(Small)
    model.blocks[0].linear = Layer(4, 4)
    assert adapt(model, example={**example(), "extra": {"scale": 1.0}})
    with pytest.raises(CheckpointError, match=r"extra has a LoRA scale of 0.5, .*set_adapters"):
        adapt(model, example={**example(), "extra": {"scale": 0.5}})
