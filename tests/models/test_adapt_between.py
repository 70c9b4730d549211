"""What models do before, between and behind their blocks, in small: the pieces do the same, or say that they cannot."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import pure
from pure.models import CheckpointError
from pure.models.accelerate.components import one_piece
from pure.models.adapt.adapt import Adapted, adapt, first_stream
from pure.models.adapt.cut import Form, hidden_of
from pure.models.adapt.dispatch import check_dispatched
from pure.models.adapt.forward import Forward
from pure.models.adapt.tape import Tape, Untraceable, play
from tests.models.test_generic_refusals import Block, Small, built, example
from tests.support.generic import Draw

DRAW = Draw(4)


def step(adapted: Adapted, call: dict) -> torch.Tensor:
    """The prediction of one step, by the pieces."""
    request, denoiser = adapted.request(call), adapted.denoiser
    state = denoiser.init(adapted.params, request.conditioning, request.latents, 1)
    inputs = pure.Inputs(request.latents, pure.Step(index=0, count=1, timestep=request.timestep))
    found, _, _ = denoiser.apply(adapted.params, state, inputs)
    assert isinstance(found, torch.Tensor)
    return found


class Multiplies(Small):
    """Before a block a number of the call is a factor: the same operations, whatever it is."""

    time_again = False

    def forward(self, hidden_states, timestep, extra=2):
        x, time = hidden_states * 2, timestep.view(-1, 1, 1)
        for place, block in enumerate(self.blocks):
            x = block(x * extra if place == 2 else x, time + place if self.time_again else time)
        return (x * 3,)


class Passes(Small):
    """A block is given a number of the call."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(Scaled() for _ in range(5))

    def forward(self, hidden_states, timestep, extra=2):
        x, time = hidden_states * 2, timestep.view(-1, 1, 1)
        for place, block in enumerate(self.blocks):
            x = block(x, time, extra if place == 3 else 1)
        return (x * 3,)


class Scaled(Block):
    def forward(self, x, time, scale=1):
        return super().forward(x * scale, time)


class MultipliesOften(Multiplies):
    """What every block is given is made anew, so that what lies between them runs before the first one, too."""

    time_again = True


@pytest.mark.parametrize("kind", [Multiplies, MultipliesOften, Passes])
def test_a_number_of_the_call_is_not_that_of_the_call_it_was_adapted_to(kind: type) -> None:
    model, call = built(kind), {**example(), "extra": 2}
    adapted = adapt(model, example=call)
    assert torch.equal(step(adapted, call), model(**call)[0])
    with pytest.raises(
        CheckpointError, match=r"does something else be(tween its blocks|fore blocks.[23]) than when it was adapted"
    ):
        step(adapted, {**call, "extra": 3})


class Touches(Small):
    """Writes into what a module outside the blocks returned, and uses it behind them; once more behind them."""

    def __init__(self):
        super().__init__()
        self.before, self.behind = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def forward(self, hidden_states, timestep, extra=None):
        shift = self.before(hidden_states)
        shift += 1.0
        (x,) = super().forward(hidden_states, timestep)
        shift *= 2.0
        return (self.behind(x + shift),)


def test_what_is_written_into_between_modules_is_written_once() -> None:
    model, call = built(Touches), example()
    adapted = adapt(model, example=call)
    for _ in range(2):
        assert torch.equal(step(adapted, call), model(**call)[0])


class Watched(Small):
    seen: list[torch.Tensor]

    def forward(self, hidden_states, timestep, extra=None):
        self.seen.append(hidden_states.clone())
        return super().forward(hidden_states, timestep)


@pytest.mark.parametrize(("check", "random"), [(0, False), (1, False), (2, True)])
def test_pieces_are_compared_on_random_latents_too(check: int, random: bool) -> None:
    model, call = built(Watched), example()
    Watched.seen = []
    adapt(model, example=call, check=check)
    others = [seen for seen in Watched.seen if not torch.equal(seen[:1], call["hidden_states"][:1])]
    assert bool(others) is random and all(0.5 < float(each.std()) < 1.5 for each in others)


class Second(Small):
    """An argument has its samples second."""

    def forward(self, hidden_states, timestep, extra=None):
        return super().forward(hidden_states + extra.movedim(1, 0).sum(1, keepdim=True), timestep)


def test_samples_may_be_second_in_an_argument() -> None:
    extra = DRAW(3, 2, 4)
    call = Forward("x", "t", second=frozenset({"y"})).sorted({"x": DRAW(2, 5), "t": DRAW(2), "y": extra})
    (rows,) = call.conditioning.samples
    assert isinstance(rows, torch.Tensor) and torch.equal(rows, extra.movedim(1, 0))
    model, given = built(Second), {**example(2), "extra": extra}
    adapted = adapt(model, example=given)
    assert adapted.forward.second == {"extra"}
    assert torch.equal(step(adapted, given), model(**given)[0])


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_streams_lie_one_after_the_other_along_any_dimension(dim: int) -> None:
    sizes = [[2, 3, 4], [2, 3, 4]]
    sizes[1][dim] = 5
    streams, form = [DRAW(*size) for size in sizes], Form((1, 0), dim)
    whole = form.join(streams)
    assert torch.equal(whole, torch.cat(streams[::-1], dim))
    assert all(torch.equal(form.split(whole, streams)[number], streams[number]) for number in (0, 1))


def test_what_is_written_into_a_symbol_keeps_its_shape() -> None:
    tape = Tape(torch.device("cpu"))
    symbol = tape.symbol(torch.zeros(2, 3))
    kept, before = symbol * 2, symbol.slot
    symbol.add_(1.0)
    symbol[:, 1:] = 5.0
    later: Any = symbol + kept
    assert symbol.slot != before and symbol.shape == later.shape == (2, 3)
    known = play(tape.ops, {before: torch.ones(2, 3)}, tape.constants)
    assert known[later.slot].tolist() == [[4.0, 7.0, 7.0]] * 2
    for write in (lambda: symbol.unsqueeze_(0), lambda: symbol.t_()):
        with pytest.raises(Untraceable, match="is given another shape in place"):
            write()


def test_a_kernel_that_is_set_already_may_be_chosen() -> None:
    model: Any = torch.nn.Sequential(torch.nn.Identity())
    model[0].processor = SimpleNamespace(_attention_backend=SimpleNamespace(value="native"))
    native: Any = lambda *_: None  # noqa: E731  (it needs a name of its own)
    for own in (None, "native", SimpleNamespace(value="native")):
        model[0].processor = SimpleNamespace(_attention_backend=own)
        native.name = "native"
        check_dispatched(model, native)
        native.name = "flex"
        if own is not None:
            with pytest.raises(CheckpointError, match=r"is set to native .* chooses another"):
                check_dispatched(model, native)


def test_the_first_stream_is_laid_out_row_after_row() -> None:
    for x in (DRAW(1, 4, 3).transpose(1, 2), DRAW(2, 4, 3).transpose(1, 2), DRAW(2, 3, 4)[:1]):
        found = first_stream(hidden_of([x]))
        assert torch.equal(found, x) and found.stride() == torch.empty(x.shape).stride()


def test_a_component_in_one_piece_has_channels_where_latents_do() -> None:
    model: Any = torch.nn.Identity()
    model.out_channels = 5
    pieces: Any = {axes: one_piece(model, axes=axes).embed for axes in (3, 4, 5)}
    assert {axes: embed.channels for axes, embed in pieces.items()} == {3: None, 4: 5, 5: 5}
