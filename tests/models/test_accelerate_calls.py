"""Every way in which pipelines call their transformer, against steps that are skipped by hand.

The transformer is small enough to be taken apart: under a static mask a skipped step is what lies before the blocks,
plus what the blocks added when they last ran for this sample. So every sample of every call has a known prediction.
"""

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

import pure
from pure.transforms import scm
from tests.support.generic import Draw

MASK = "110100"
TEXTS, LATENTS, EXTRAS = Draw(1)(3, 5, 4), Draw(2)(3, 6, 4), Draw(3)(6, 1, 6, 4)


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, time: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.linear(x) + time + text.mean(1, keepdim=True))


class Toy(torch.nn.Module):
    """Four blocks between two maps that are known; the first block has a second name, as some models' have."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.blocks = torch.nn.ModuleList(Block() for _ in range(4))
        self.first = self.blocks[0]
        self.requires_grad_(False).eval()

    @contextlib.contextmanager
    def cache_context(self, name: str) -> Iterator[None]:
        yield

    def added(self, x: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """What the blocks add to 2 x."""
        hidden = x * 2
        for block in self.blocks:
            hidden = block(hidden, timestep.view(-1, 1, 1), text)
        return hidden - x * 2

    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        residual: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        hidden = hidden_states * 2
        for block in self.blocks:
            hidden = block(hidden, timestep.view(-1, 1, 1), encoder_hidden_states)
        found = hidden * 3 if residual is None else hidden * 3 + residual
        return SimpleNamespace(sample=found) if return_dict else (found,)


class Old:
    """A scheduler without an index of its own steps."""

    config = SimpleNamespace(num_train_timesteps=1000)

    def __init__(self) -> None:
        self.timesteps = torch.linspace(1000, 100, 6)

    def step(self, *_: Any) -> None: ...


def indexed() -> Any:
    scheduler: Any = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(6)
    return scheduler


class Pipe:
    """Runs a script; what it calls is the transformer."""

    def __init__(self, scheduler: Any, boundary: float | None = None) -> None:
        self.transformer, self.transformer_2 = Toy(), None if boundary is None else Toy(1)
        self.scheduler, self.config = scheduler, SimpleNamespace(boundary_ratio=boundary)

    @property
    def toys(self) -> list[str]:
        """Which component runs at each step."""
        low = [self.config.boundary_ratio is not None and t < self.config.boundary_ratio * 1000 for t in self.times]
        return ["transformer_2" if each else "transformer" for each in low]

    @property
    def times(self) -> torch.Tensor:
        return self.scheduler.timesteps

    def __call__(self, script: Callable) -> list[torch.Tensor]:
        def call(x: torch.Tensor, text: torch.Tensor, samples: tuple, name: str = "", **more: Any) -> torch.Tensor:
            toy = getattr(self, self.toys[number])
            with toy.cache_context(name) if name else contextlib.nullcontext():
                if more.pop("record", False):
                    return toy(x, now.expand(len(x)), text, **more).sample
                if more.pop("named", True):
                    more |= {"hidden_states": x, "encoder_hidden_states": text, "timestep": now.expand(len(x))}
                    return toy(**more, return_dict=False)[0]
                return toy(x, now.expand(len(x)), text, return_dict=False, **more)[0]

        steps = script()
        next(steps)
        found: list[torch.Tensor] = []
        for number, time in enumerate(self.times):
            now = time / 1000
            found += steps.send((number, call))
            self.scheduler.step(torch.zeros(1), time, torch.zeros(1))
        return found


def by_hand(pipe: Pipe, mask: str, script: Callable) -> list[torch.Tensor]:
    """What a script is to get where the steps with 0 in the mask are skipped, every sample alone."""
    kept: dict[Any, torch.Tensor] = {}
    toys, times = [getattr(pipe, name) for name in pipe.toys], pipe.times

    def call(x: torch.Tensor, text: torch.Tensor, samples: tuple, *_: Any, **more: Any) -> torch.Tensor:
        rows = []
        for row, sample in enumerate(samples):
            here = slice(row, row + 1)
            toy, key = toys[number], (id(toys[number]), sample)
            if mask[number] == "1":
                kept[key] = toy.added(x[here], times[number].expand(1) / 1000, text[here])
            rows.append((x[here] * 2 + kept[key]) * 3)
        return torch.cat(rows) + more.get("residual", 0)

    steps = script()
    next(steps)
    found: list[torch.Tensor] = []
    for number in range(len(times)):
        found += steps.send((number, call))
    return found


def moved(x: torch.Tensor, *predictions: torch.Tensor) -> torch.Tensor:
    return 0.9 * x + 0.01 * sum(predictions)


def one(**more: Any) -> Iterator:
    x, found, text = LATENTS[:1], [], TEXTS[:1]
    while True:
        _, call = yield found
        found = [call(x, text, ("a",), **more)]
        x = moved(x, *found)


def anew() -> Iterator:
    """The conditioning is made again at every step, with the same values."""
    x, found = LATENTS[:1], []
    while True:
        _, call = yield found
        found = [call(x, TEXTS[:1].clone(), ("a",)), call(x, TEXTS[1:2].clone(), ("b",))]
        x = moved(x, *found)


def controlled() -> Iterator:
    """A residual of every step's own is added behind the blocks."""
    x, found = LATENTS[:1], []
    while True:
        number, call = yield found
        found = [call(x, TEXTS[:1], ("a",), residual=EXTRAS[number])]
        x = moved(x, *found)


def by_turns() -> Iterator:
    """Two branches, each of which is the first at every other step."""
    x, found, texts = LATENTS[:1], [], {"a": TEXTS[:1], "b": TEXTS[1:2]}
    while True:
        number, call = yield found
        found = [call(x, texts[name], (name,)) for name in ("ab" if number % 2 else "ba")]
        x = moved(x, *found)


def contexts() -> Iterator:
    """Two branches with one conditioning, which only the name of their context tells apart."""
    x, found, text = LATENTS[:1], [], TEXTS[:1]
    while True:
        _, call = yield found
        found = [call(x, text, ("cond",), name="cond"), call(x + 1, text, ("uncond",), name="uncond")]
        x = moved(x, *found)


def now_and_then() -> Iterator:
    """The second branch runs at the first three steps and at the last."""
    x, found, texts = LATENTS[:1], [], {"a": TEXTS[:1], "b": TEXTS[1:2]}
    while True:
        number, call = yield found
        found = [call(x, texts[name], (name,)) for name in ("ab" if number in (0, 1, 2, 5) else "a")]
        x = moved(x, *found)


def leaving(*left: int) -> Callable:
    """Three samples in a batch that is made anew, of which at two steps only some run, in any order."""

    def script() -> Iterator:
        x, found = LATENTS, []
        while True:
            number, call = yield found
            rows = list(left) if number in (2, 4) else [0, 1, 2]
            predicted = call(x[rows], TEXTS[rows], tuple(rows))
            x = x.clone()
            x[rows] = moved(x[rows], predicted)
            found = [predicted]

    return script


SCRIPTS: dict[str, tuple[Callable, int]] = {
    "one": (one, 1),
    "positional": (lambda: one(named=False), 1),
    "record": (lambda: one(record=True), 1),
    "anew": (anew, 2),
    "controlled": (controlled, 1),
    "by-turns": (by_turns, 2),
    "contexts": (contexts, 2),
    "now-and-then": (now_and_then, 2),
    "first-leaves": (leaving(1, 2), 1),
    "last-leaves": (leaving(0, 1), 1),
    "only-the-last": (leaving(2), 1),
    "turned": (leaving(2, 0), 1),
}


def close(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    for mine, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)  # rows of a batch round otherwise than alone


@pytest.mark.parametrize("scheduler", [indexed, Old])
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_call_is_what_it_is_by_hand(name: str, scheduler: Callable) -> None:
    script, branches = SCRIPTS[name]
    pipe: Any = Pipe(scheduler())
    plain = pipe(script)
    close(plain, by_hand(pipe, "111111", script))
    pipe.scheduler = scheduler()
    with pure.accelerate(pipe, pure.identity):
        assert all(map(torch.equal, pipe(script), plain))
    pipe.scheduler = scheduler()
    with pure.accelerate(pipe, scm(mask=MASK, policy="static")) as report:
        found = pipe(script)
    close(found, by_hand(pipe, MASK, script))
    last = report.last
    assert not last.plain and not last.notes and set(last.counts.values()) == {6} and len(last.branches) == branches
    for infos in last.branches.values():
        for info in infos:
            assert {decision.computed for decision in info.decisions} == {MASK[info.decisions[0].index] == "1"}
    every = {name: [d.computed for info in infos for d in info.decisions] for name, infos in last.branches.items()}
    assert last.computed + last.skipped == sum(map(len, every.values()))
    for name, made in every.items():
        cells = name, len(last.branches[name]), sum(made), len(made) - sum(made)
        assert "".join(f"<td>{cell}</td>" for cell in cells) in last._repr_html_()


@pytest.mark.parametrize("name", ["one", "by-turns", "contexts", "turned"])
def test_two_transformers_count_their_own_steps(name: str) -> None:
    """The second one takes over at a timestep below 0.6 of the whole: after three steps of six."""
    script, branches = SCRIPTS[name]
    pipe: Any = Pipe(Old(), boundary=0.6)
    assert pipe.toys == ["transformer"] * 3 + ["transformer_2"] * 3
    masks = {"transformer": scm(mask="101", policy="static"), "transformer_2": scm(mask="110", policy="static")}
    with pure.accelerate(pipe, masks) as report:
        found = pipe(script)
    close(found, by_hand(pipe, "101110", script))
    assert set(report.last.counts.values()) == {3} and len(report.last.branches) == 2 * branches
    with pure.accelerate(pipe, {"transformer_2": masks["transformer_2"]}) as report:
        found = pipe(script)
    close(found, by_hand(pipe, "111110", script))
    assert all(each.startswith("transformer_2/") for each in report.last.branches)


def test_every_call_of_a_pipeline_begins_anew() -> None:
    """Its second call has other text and latents, and a batch of another size."""
    pipe: Any = Pipe(Old())
    scripts = [SCRIPTS[name][0] for name in ("one", "turned", "by-turns", "one")]
    with pure.accelerate(pipe, scm(mask=MASK, policy="static")) as report:
        found = [pipe(script) for script in scripts]
    for mine, script in zip(found, scripts, strict=True):
        close(mine, by_hand(pipe, MASK, script))
    assert [len(each.branches) for each in report.calls] == [1, 1, 2, 1]


class Sized(Toy):
    """What lies between its blocks depends on the number of samples."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        residual: torch.Tensor | None = None,
        return_dict: bool = False,
    ) -> Any:
        hidden = hidden_states * 2
        for block in self.blocks:
            hidden = block(hidden, timestep.view(-1, 1, 1), encoder_hidden_states).reshape(len(hidden_states), 6, 4)
        return (hidden * 3,)


def test_a_batch_of_another_size_is_adapted_anew_where_it_has_to_be() -> None:
    def call(x: torch.Tensor, text: torch.Tensor, *_: Any) -> torch.Tensor:
        return pipe.transformer(x, torch.full((len(x),), 0.5), text)[0]

    pipe: Any = Pipe(Old())
    pipe.transformer = Sized()
    pipe_calls = [LATENTS[:1], LATENTS, LATENTS[1:], LATENTS[:1]]
    wanted = [call(x, TEXTS[: len(x)]) for x in pipe_calls]

    def script() -> Iterator:
        found: list[torch.Tensor] = []
        while True:
            number, _ = yield found
            found = [call(pipe_calls[number % 4], TEXTS[: len(pipe_calls[number % 4])])]

    with pure.accelerate(pipe, pure.identity) as report:
        found = pipe(script)
    assert all(map(torch.equal, found, [*wanted, *wanted[:2]])) and not report.last.plain


def test_a_branch_whose_latents_become_longer_begins_anew() -> None:
    text, lengths = TEXTS[:1], (6, 6, 4, 4, 4, 6)

    def script() -> Iterator:
        found: list[torch.Tensor] = []
        while True:
            number, call = yield found
            found = [call(LATENTS[:1, : lengths[number]], text, ("a",), name="cond")]

    pipe: Any = Pipe(Old())
    plain = pipe(script)
    with pure.accelerate(pipe, scm(mask="110101", policy="static")) as report:
        found = pipe(script)
    computed = [info.computed[0] for info in report.last.branches["transformer/cond"]]
    assert computed[0] and all(torch.equal(a, b) for a, b, on in zip(found, plain, computed, strict=True) if on)
    assert [each.shape for each in found] == [each.shape for each in plain] and not report.last.plain


class Halves:
    """A hook of model offloading, which may change the arguments."""

    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple, dict]:
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] / 2}


def test_arguments_are_those_that_a_hook_of_offloading_returns() -> None:
    pipe: Any = Pipe(Old())
    wanted = pipe(one)[0]
    pipe.transformer._hf_hook = Halves()
    with pure.accelerate(pipe, pure.identity):
        first = pipe(lambda: doubled(LATENTS[:1]))[0]
    torch.testing.assert_close(first, wanted, rtol=0, atol=1e-5)


def doubled(x: torch.Tensor) -> Iterator:
    """What `one` does, with twice the latents."""
    found: list[torch.Tensor] = []
    while True:
        _, call = yield found
        found = [call(2 * x, TEXTS[:1], ("a",))]
        x = moved(x, *found)
