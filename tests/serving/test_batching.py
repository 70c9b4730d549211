"""A result is the same alone and in a batch, whoever joins it and leaves it, and whenever."""

import threading

import attrs
import numpy as np
import pytest
import torch

from pure.engine.engine import alike
from pure.engine.errors import Failure, Misuse
from pure.serving.jobs import Artifact, Format, Job
from pure.serving.queue import Queue
from pure.serving.storage import Storage

# Prompts of one length in bytes and of others: tokenizers here take a byte for a token.
PROMPTS = ("a dog", "a cat", "a red apple on a table", "pear")
IMAGE = {"height": 32, "width": 32, "steps": 6}
VIDEO = {"height": 16, "width": 32, "frames": 5, "steps": 6}
# Options, guidance, and a threshold that some samples pass and others do not.
CASES = {
    "flux": (IMAGE, {"true_cfg_scale": 3.0}, 0.344),
    "z-image": (IMAGE, {}, 0.655),
    "klein": (IMAGE, {}, 0.805),
    "qwen": (IMAGE, {}, 0.96),
    "wan": (VIDEO, {}, 0.11),
    "wan-experts": (VIDEO, {}, 0.11),
    "hunyuan": (VIDEO, {}, 0.28),
}
CACHED = {"max_warmup_steps": 1, "enable_taylorseer": True}


@attrs.frozen(eq=False)
class Kept(Storage):
    """Keeps frames as they are made, before any rounding."""

    frames: dict = attrs.field(factory=dict)

    def put(self, sample, frames, fps, report):
        self.frames[sample.job.prompt, sample.seed] = frames
        return Artifact(content=b"", path=None, report=report)


@pytest.fixture
def studio(here, tmp_path):
    """An engine that keeps frames, not started: the test puts samples in its queue first."""

    def start(name, **settings):
        kept = Kept(tmp_path)
        return here(name, files=kept, start=False, **settings), kept.frames

    return start


def jobs(opened, name, prompts=PROMPTS, params=CACHED, **changes):
    options, guided, threshold = CASES[name]
    params = {"residual_diff_threshold": threshold, **params} if params else None
    order = {"negative_prompt": "bad" if guided else None, "options": {**options, **guided, **changes}}
    form = Format(kind="video" if opened.service.engine.checkpoint.video else "image")
    return [
        Job(prompt=text, seeds=(number,), recipe=opened.recipe(params=params, **order), form=form)
        for number, text in enumerate(prompts)
    ]


def made(studio, name, size, **changes):
    """Make all prompts with batches of a size; return frames and decisions, and how many were taken together."""
    opened, frames = studio(name, batch=size)
    futures = [(job.prompt, opened.worker.submit(job)) for job in jobs(opened, name, **changes)]
    opened.worker.start()
    entries = {prompt: future.result(60) for prompt, future in futures}
    assert all(entry.status == "completed" for entry in entries.values()), [e.error for e in entries.values()]
    steps = {
        prompt: [(d["computed"], d["reason"]) for d in entry.artifacts[0].report["decisions"]]
        for prompt, entry in entries.items()
    }
    return frames, steps, opened.worker.metrics.stats()["batches"]


@pytest.mark.filterwarnings("ignore:the language model reads 256 tokens:UserWarning")  # its template has more bytes
@pytest.mark.parametrize("name", CASES)
def test_alone_and_in_a_batch(studio, name):
    alone, steps_alone, _ = made(studio, name, 1)
    batched, steps, together = made(studio, name, 4)
    assert max(map(int, together)) > 1
    assert steps == steps_alone
    for key, frames in alone.items():
        # Products of matrices of other heights are rounded otherwise: 1e-5 and not bit for bit.
        assert np.abs(frames - batched[key]).max() < 1e-5, key
    assert len({str(decisions) for decisions in steps.values()}) > 1, "all samples decided alike: nothing was tested"


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_samples_join_between_steps_and_leave_when_done(studio, name):
    """While the first run goes on, others come: they stand at other steps of the same batch."""
    alone, steps_alone, _ = made(studio, name, 1)
    opened, frames = studio(name, batch=3)
    first, *others = jobs(opened, name)
    kind = first.form.kind
    joined = threading.Event()
    step = opened.worker.jobs.step

    def after(id):  # the others come once the first has taken two steps
        step(id)
        if id == first.id and opened.worker.jobs.get(id, kind).steps == 2 and not joined.is_set():
            joined.set()
            futures.extend(opened.worker.submit(job) for job in others)

    opened.worker.jobs.step = after
    futures = [opened.worker.submit(first)]
    opened.worker.start()
    futures[0].result(60)
    entries = [future.result(60) for future in futures]
    assert [entry.status for entry in entries] == ["completed"] * 4
    together = opened.worker.metrics.stats()["batches"]
    # 2 steps alone, 4 with two others; the last takes the first one's place while those two take their last 2 steps.
    assert together == {"1": 2 + 4, "3": 4 + 2}
    for key, pixels in alone.items():
        assert np.abs(pixels - frames[key]).max() < 1e-5
    for entry in entries:
        found = [(d["computed"], d["reason"]) for d in entry.artifacts[0].report["decisions"]]
        assert found == steps_alone[entry.job.prompt]


def test_other_settings_are_not_joined(studio):
    """Whatever is not prompt or seed keeps samples apart: size, steps, guidance, cache."""
    opened, _ = studio("flux", batch=4)
    (base,) = jobs(opened, "flux", PROMPTS[:1])
    (same,) = jobs(opened, "flux", PROMPTS[1:2])
    assert alike(base.recipe, same.recipe)
    for changes in ({"height": 16}, {"steps": 5}, {"guidance_scale": 2.0}, {"true_cfg_scale": 4.0}):
        (other,) = jobs(opened, "flux", PROMPTS[:1], **changes)
        assert not alike(base.recipe, other.recipe), changes
    for params in (None, {"residual_diff_threshold": 0.3}):
        (other,) = jobs(opened, "flux", PROMPTS[:1], params=params)
        assert not alike(base.recipe, other.recipe), params


def test_a_prompt_that_cannot_be_read_fails_alone(studio, monkeypatch):
    opened, _ = studio("flux", batch=4)
    pipeline = type(opened.service.engine.pipeline)
    condition = pipeline.condition

    def picky(self, request, texts, negative):
        if "pear" in texts:
            raise ValueError("there are no pears")
        return condition(self, request, texts, negative)

    monkeypatch.setattr(pipeline, "condition", picky)
    futures = [opened.worker.submit(job) for job in jobs(opened, "flux")]
    opened.worker.start()
    *good, bad = [future.result(60) for future in futures]
    assert [entry.status for entry in good] == ["completed"] * 3
    assert bad.status == "failed" and (type(bad.error), bad.error.message) == (Misuse, "there are no pears")


def test_a_failure_in_a_step_ends_its_requests_and_not_the_engine(studio, monkeypatch):
    """Law 15: what failed leaves nothing behind for the next request."""
    alone, _, _ = made(studio, "flux", 1)
    opened, frames = studio("flux", batch=4)
    solver = type(opened.service.engine.pipeline.solver)
    step, calls = solver.step, []

    def breaking(self, carry, prediction, at):
        calls.append(at)
        if len(calls) == 3:
            raise RuntimeError("the device is on fire")
        return step(self, carry, prediction, at)

    monkeypatch.setattr(solver, "step", breaking)
    futures = [opened.worker.submit(job) for job in jobs(opened, "flux")]
    opened.worker.start()
    entries = [future.result(60) for future in futures]
    assert {(entry.status, type(entry.error)) for entry in entries} == {("failed", Failure)}
    assert "the device is on fire" in entries[0].error.message and opened.worker.running == 0
    again = [opened.worker.submit(job).result(60) for job in jobs(opened, "flux")]
    assert [entry.status for entry in again] == ["completed"] * 4
    assert all(np.abs(pixels - frames[key]).max() < 1e-5 for key, pixels in alone.items())


def test_what_waits_for_a_batch_of_its_own_outlives_a_failure(studio, monkeypatch):
    """A prompt of another length is set aside; then a step of the running batch fails."""
    opened, _ = studio("qwen", batch=2)
    first, other = jobs(opened, "qwen", ("a dog", "a red apple on a table"))
    solver = type(opened.service.engine.pipeline.solver)
    step, calls, futures = solver.step, [], []

    def breaking(self, carry, prediction, at):
        calls.append(at)
        if len(calls) == 1:
            futures.append(opened.worker.submit(other))
        if len(calls) == 3:
            raise RuntimeError("the device is on fire")
        return step(self, carry, prediction, at)

    monkeypatch.setattr(solver, "step", breaking)
    failed = opened.worker.submit(first)
    opened.worker.start()
    assert failed.result(60).status == "failed" and "on fire" in failed.result().error.message
    assert futures[0].result(60).status == "completed" and opened.worker.running == 0
    counts = opened.worker.metrics.stats()
    assert counts["batches"] == {"1": 2 + 6}, "steps of the first before it failed, and all of the other"


def test_newcomers_that_cannot_be_read_end_too(studio, monkeypatch):
    """An error of another kind while newcomers are encoded: they and the running ones end."""
    opened, _ = studio("flux", batch=2)
    first, other = jobs(opened, "flux", ("a dog", "a cat"))
    pipeline = type(opened.service.engine.pipeline)
    read, futures = pipeline.condition, []

    def reading(self, request, texts, negative):
        if "a cat" in texts:
            raise RuntimeError("out of memory")
        return read(self, request, texts, negative)

    monkeypatch.setattr(pipeline, "condition", reading)
    begun = opened.worker.jobs.step

    def after(id):
        begun(id)
        if not futures:
            futures.append(opened.worker.submit(other))

    opened.worker.jobs.step = after
    failed = opened.worker.submit(first)
    opened.worker.start()
    assert failed.result(60).status == "failed" and futures[0].result(60).status == "failed"
    assert "out of memory" in futures[0].result().error.message and opened.worker.running == 0


def test_latents_that_are_not_finite_fail_alone(studio, monkeypatch):
    opened, frames = studio("flux", batch=4)
    pipeline = type(opened.service.engine.pipeline)
    real = pipeline.noise

    def noise(self, request, seed):
        found = real(self, request, seed)
        rows = [row for row, each in enumerate(seed) if each == 3]
        return found.index_fill(0, torch.tensor(rows, dtype=torch.int64), float("nan"))

    monkeypatch.setattr(pipeline, "noise", noise)
    futures = [opened.worker.submit(job) for job in jobs(opened, "flux")]
    opened.worker.start()
    *good, bad = [future.result(60) for future in futures]
    assert [entry.status for entry in good] == ["completed"] * 3 and bad.status == "failed"
    assert type(bad.error) is Failure
    assert bad.error.message.startswith("the work failed: 'pear' with seed 3 is not finite from step 1 of 6 on")
    assert len(frames) == 3 and all(np.isfinite(pixels).all() for pixels in frames.values())


def test_progress_and_cancelling_with_two_results(studio, monkeypatch):
    """Half of two results is half of the job; cancelled after the first, no file of it stays."""
    opened, _ = studio("flux", batch=1)
    (job,) = jobs(opened, "flux", PROMPTS[:1])
    job, seen, removed = attrs.evolve(job, seeds=(1, 2)), [], []
    engine = opened.worker
    step = engine.jobs.step
    monkeypatch.setattr(Kept, "remove", lambda self, outputs: removed.extend(outputs))

    def after(id):
        step(id)
        seen.append(engine.jobs.get(id, "image").progress)
        if len(seen) == 8:
            engine.cancel(id)

    engine.jobs.step = after
    future = engine.submit(job)
    engine.start()
    entry = future.result(60)
    assert entry.status == "cancelled" and len(entry.artifacts) == 1
    assert seen == [taken * 100 // 12 for taken in range(1, 9)]
    assert removed == list(entry.artifacts.values())


def test_cancelled_while_it_is_decoded(studio, monkeypatch):
    opened, frames = studio("flux", batch=1)
    engine = opened.worker
    (job,) = jobs(opened, "flux", PROMPTS[:1])
    pipeline, removed = type(opened.service.engine.pipeline), []
    decoded = pipeline.decoded
    monkeypatch.setattr(Kept, "remove", lambda self, outputs: removed.extend(outputs))

    def cancelling(self, latents, request):
        engine.cancel(job.id)
        return decoded(self, latents, request)

    monkeypatch.setattr(pipeline, "decoded", cancelling)
    future = engine.submit(job)
    engine.start()
    assert future.result(60).status == "cancelled"
    engine.stop()
    assert len(frames) == 1 and len(removed) == 1, "what was written is taken away"


def test_running_videos_fail_at_shutdown(studio):
    opened, frames = studio("wan", batch=2)
    engine = opened.worker
    found, running = jobs(opened, "wan", PROMPTS[:2]), threading.Event()
    step = engine.jobs.step

    def after(id):
        step(id)
        if not running.is_set():
            running.set()
            engine.halt()

    engine.jobs.step = after
    futures = [engine.submit(job) for job in found]
    engine.start()
    entries = [future.result(60) for future in futures]
    engine.stop()
    assert [entry.status for entry in entries] == ["failed"] * 2 and not frames and not engine.alive


def test_a_result_that_cannot_be_saved_fails_alone(studio, monkeypatch):
    opened, _ = studio("flux", batch=4)
    put = Kept.put

    def full(self, sample, *rest):
        if sample.job.prompt == "pear":
            raise Failure("cannot write pear.png: No space left on device")
        return put(self, sample, *rest)

    monkeypatch.setattr(Kept, "put", full)
    futures = [opened.worker.submit(job) for job in jobs(opened, "flux")]
    opened.worker.start()
    *good, bad = [future.result(60) for future in futures]
    assert [entry.status for entry in good] == ["completed"] * 3 and opened.worker.running == 0
    assert type(bad.error) is Failure and "No space left on device" in bad.error.message


def test_the_queue_gathers_what_fits_and_keeps_the_order_of_the_rest(studio):
    opened, _ = studio("flux")
    one, three, four = jobs(opened, "flux", PROMPTS[:3])
    (two,) = jobs(opened, "flux", PROMPTS[3:], height=16)
    queue = Queue()
    for job in (one, two, three, four):
        assert queue.put(job.samples)
    assert [sample.job for sample in queue.take(2)] == [one, three]
    assert [sample.job for sample in queue.more(one.recipe, 3)] == [], "who waits in front is not overtaken"
    assert [sample.job for sample in queue.take(9)] == [two]
    assert [sample.job for sample in queue.more(one.recipe, 3)] == [four] and len(queue) == 0
    assert queue.close() == [] and not queue.put(one.samples) and queue.take(1) == []


def test_the_first_waits_for_others_as_long_as_is_allowed(studio):
    opened, _ = studio("flux")
    one, two, *_ = jobs(opened, "flux")
    queue = Queue()
    queue.put(one.samples)
    timer = threading.Timer(0.05, queue.put, [two.samples])
    timer.start()
    assert [sample.job for sample in queue.take(2, delay=30)] == [one, two]
    timer.join()
    queue.put(one.samples)
    assert [sample.job for sample in queue.take(2, delay=0.01)] == [one]
