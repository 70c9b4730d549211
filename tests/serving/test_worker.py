"""The worker and its groups with stand-ins for the model: what is counted, told, joined, dropped and ended."""

from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from pure.engine.errors import Busy, Failure, Misuse, Stopping
from pure.models import NotFiniteError
from pure.notes import Note
from pure.serving.jobs import Format, Job, JobEntry
from pure.serving.storage import Storage
from pure.serving.worker import Worker, WorkerOptions
from pure.serving.workers import Workers
from tests.serving.stand_ins import Hand


@attrs.frozen(eq=False)
class Recipe:
    """Of images, or of videos at some frames per second."""

    steps: int = 2
    fps: int | None = None

    @property
    def request(self) -> Any:
        return SimpleNamespace(steps=self.steps, memo={}, images=("its own",))

    def batch(self, samples: Any) -> list[str]:
        return [sample.prompt for sample in samples]


ONE: Any = Recipe()


def job(prompt: str = "a", seeds: tuple[int, ...] = (1,), recipe: Any = ONE, kind: str = "image") -> Job:
    return Job(prompt=prompt, seeds=seeds, recipe=recipe, form=Format(kind=kind))


@pytest.fixture
def work(tmp_path):
    """A worker without its thread; `run` makes what waits, with the lines that were logged."""

    def make(hand: Any, notes: tuple[Note, ...] = (), keep: bool = False, **options: Any) -> Any:
        engine: Any = SimpleNamespace(pipeline=SimpleNamespace(notes=lambda prompts: notes))
        logged: list[Any] = []
        files = Storage(tmp_path if keep else None)
        worker = Worker(engine, files, WorkerOptions(**options), lambda *line: logged.append(line), hand)

        def run() -> None:
            """Work until nothing waits: the queue closes when it is empty."""
            take = worker.queue.take

            def taking(most: int, delay: float = 0.0) -> Any:
                assert delay == worker.options.delay
                if not len(worker.queue):
                    worker.queue.close()
                return take(most, 0.0)

            worker.queue.take = taking  # type: ignore[method-assign]
            worker._work()

        return SimpleNamespace(worker=worker, run=run, logged=logged, hand=hand)

    return make


def test_notes_go_to_the_prompt_they_are_on(work):
    notes = (Note("of all"), Note("of the first", subject=0), Note("of the third", subject=2))
    made = work(Hand(), notes, batch=4)
    futures = [made.worker.submit(job(prompt, seeds)) for prompt, seeds in (("a", (1, 2)), ("b", (3,)))]
    made.run()
    assert [each.result().notes for each in futures] == [("of all", "of the first"), ("of all", "of the third")]


@pytest.mark.parametrize("error", [ValueError, TypeError])
def test_prompts_that_fit_no_batch_are_made_alone_and_alone_they_are_mistakes(work, error):
    made = work(Hand(start=[error("unlike"), None, error("no prompt")]), batch=2)
    one, other = (made.worker.submit(job(prompt)) for prompt in "ab")
    made.run()
    assert made.hand.did[:2] == [("start", ["a", "b"]), ("start", ["a"])]
    assert one.result().status == "completed" and other.result().status == "failed"
    assert type(other.result().error) is Misuse and str(other.result().error) == "no prompt" and not made.logged


@pytest.mark.parametrize("error", [ValueError, TypeError])
def test_newcomers_join_up_to_the_size_of_a_batch_or_wait_for_their_own(work, error):
    futures: list[Any] = []

    def come() -> None:
        futures.extend(made.worker.submit(job(prompt)) for prompt in "bcd")

    made = work(Hand(steps=2, step=[come], admit=[None, error("unlike")]), batch=3)
    futures.append(made.worker.submit(job("a")))
    made.run()
    assert made.hand.did == [
        ("start", ["a"]), ("step",), ("admit", ["b", "c"]), ("step",), ("finish", 0), ("keep", [1, 2]),
        ("admit", ["d"]), ("step",), ("finish", 0), ("finish", 1), ("keep", []),
        ("start", ["d"]), ("step",), ("step",), ("finish", 0), ("keep", []),
    ]  # fmt: skip
    assert [each.result().status for each in futures] == ["completed"] * 4


@pytest.mark.parametrize(("mixes", "batch"), [(False, 3), (True, 1)])
def test_nobody_joins_where_samples_do_not_mix_or_the_batch_is_full(work, mixes, batch):
    made = work(Hand(mixes=mixes, step=[lambda: made.worker.submit(job("b"))]), batch=batch)
    made.worker.submit(job("a"))
    made.run()
    assert [name for name, *_ in made.hand.did].count("start") == 2
    assert not [each for each in made.hand.did if each[0] == "admit"]


def test_what_is_under_way_is_counted(work):
    counts: list[int] = []
    look = [lambda: counts.append(made.worker.running)]
    cancel = [lambda: made.worker.cancel(two.id)]
    made = work(Hand(steps=3, step=[*look, *cancel, *look], finish=look * 2), batch=8)
    one, two = job("a", (1, 2)), job("b", (3,))
    futures = [made.worker.submit(each) for each in (one, two)]
    made.run()
    assert counts == [3, 2, 2, 1] and made.worker.running == 0
    assert ("keep", [0, 1]) in made.hand.did, "of a job that is cancelled nothing more is made"
    assert [each.result().status for each in futures] == ["completed", "cancelled"]
    stats = made.worker.metrics.stats()
    assert stats["batches"] == {"2": 1, "3": 2} and stats["requests"] == {"image completed": 1, "image cancelled": 1}


def test_progress_counts_the_steps_of_every_sample(work):
    seen: list[Any] = []
    look = [
        lambda: seen.append(
            (made.worker.jobs.get(one.id, "image").steps, made.worker.jobs.get(one.id, "image").progress)
        )
    ]
    made = work(Hand(steps=2, step=look * 2, finish=look), batch=8)
    one = job("a", (1, 2))
    made.worker.submit(one)
    made.run()
    assert seen == [(0, 0), (2, 50), (4, 99)]


def test_a_step_that_fails_ends_its_jobs_and_no_other(work):
    came: list[Any] = []
    join = [lambda: came.append(made.worker.submit(job("b"))), ZeroDivisionError("of ours")]
    made = work(Hand(step=join, admit=[ValueError("unlike")]), batch=2)
    one = made.worker.submit(job("a"))
    made.run()
    assert one.result().status == "failed" and came[0].result().status == "completed"
    error: Any = one.result().error
    assert type(error) is Failure and (error.message, error.code) == (
        "the work failed: ZeroDivisionError: of ours", "generation_failed"
    )  # fmt: skip
    ((text, kind),) = made.logged
    assert kind == "warning" and text.startswith("of ours\nTraceback") and made.worker.running == 0


@pytest.mark.parametrize(
    ("error", "said"),
    [(NotFiniteError({0: "not finite"}), "not finite"), (Failure("a full disk"), "a full disk"),
     (OSError("gone"), "OSError: gone")],
)  # fmt: skip
def test_a_result_that_cannot_be_made_fails_alone(work, error, said):
    made = work(Hand(finish=[error]), batch=2)
    one, other = (made.worker.submit(job(prompt)) for prompt in "ab")
    made.run()
    assert str(one.result().error) == f"the work failed: {said}" and other.result().status == "completed"
    assert made.worker.running == 0 and len(made.logged) == 1


def test_processes_that_are_lost_while_one_sample_is_decoded_stop_the_worker(work):
    lost = RuntimeError("process 1 was killed")
    made = work(Hand(finish=[lost]), batch=2)
    futures = [made.worker.submit(job(prompt)) for prompt in "ab"]
    made.run()
    assert made.worker.lost is lost and [each.result().status for each in futures] == ["failed"] * 2
    assert made.hand.did[-1] == ("finish", 0), "the other sample is not asked for"


def test_nothing_is_started_for_a_sample_that_nobody_wants_any_more(work):
    """Two prompts that fit into no batch are made one after the other; the second is cancelled meanwhile."""
    one, other = job("a"), job("b")
    made = work(Hand(start=[ValueError("unlike")], step=[lambda: made.worker.jobs.cancel(other.id)]), batch=2)
    futures = [made.worker.submit(each) for each in (one, other)]
    made.run()
    assert [each.result().status for each in futures] == ["completed", "cancelled"]
    assert [args for name, *args in made.hand.did if name == "start"] == [[["a", "b"]], [["a"]]]


def test_processes_that_are_lost_stop_the_worker(work):
    lost = RuntimeError("process 1 was killed")
    later: list[Any] = []
    come = [lambda: later.append(made.worker.submit(job("b")))]
    made = work(Hand(step=[*come, lost], admit=[ValueError("unlike")]), batch=2)
    futures = [made.worker.submit(job("a")), made.worker.submit(job("c", recipe=Recipe()))]
    made.run()
    assert made.worker.lost is lost and not made.worker.alive
    assert [each.result().status for each in (*futures, *later)] == ["failed"] * 3
    assert [str(each.result().error).partition(":")[0] for each in (*futures, *later)] == [
        "the work failed", *["the server is shutting down; ask again later"] * 2
    ]  # fmt: skip
    with pytest.raises(Stopping):
        made.worker.submit(job())
    made.worker.stop()
    assert ("dismiss",) not in made.hand.did, "there is nobody who would hear it"


def test_warm_ups_come_before_the_first_request(work):
    made = work(Hand(warm_up=[None, ValueError("too large")]), warm_up=(ONE, ONE), warm_steps=3)
    future = made.worker.submit(job())
    assert not made.worker.ready.is_set()
    made.run()
    assert made.hand.did[:3] == [("warm_up", "a warm-up", 3), ("warm_up", "a warm-up", 3), ("start", ["a"])]
    assert made.worker.ready.is_set() and future.result().status == "completed"
    (first, kind), failed = made.logged
    assert first.startswith("warmed up in ") and kind == "note"
    assert failed == ("the warm-up failed: too large", "warning")


def test_the_first_request_is_preceded_by_a_warm_up_of_its_own(work):
    made = work(Hand(), first=True, warm_steps=2)
    for _ in range(2):
        made.worker.submit(job())
    made.run()
    assert [each for each in made.hand.did if each[0] == "warm_up"] == [("warm_up", "a warm-up", 2)]
    assert made.hand.did[0][0] == "warm_up"


def test_a_result_is_stored_as_its_job_says_and_dropped_where_that_is_over(work, tmp_path):
    stored: list[Any] = []
    made = work(Hand(steps=1, finish=[None, lambda: made.worker.cancel(two.id)]), keep=True, batch=2)
    files = made.worker._files

    def put(sample: Any, frames: Any, fps: Any, report: Any) -> Any:
        stored.append((sample.seed, fps, report))
        return files.put(sample, frames, None, report)

    made.worker._files = SimpleNamespace(put=put, remove=files.remove)
    both: Any = Recipe(steps=1, fps=8)
    one, two = job("a", (7,), both), job("b", (9,), both)
    futures = [made.worker.submit(each) for each in (one, two)]
    made.run()
    assert [(seed, fps, report["seed"], report["duration_ms"]) for seed, fps, report in stored] == [
        (7, 8, 7, 500.0), (9, 8, 9, 500.0)
    ]  # fmt: skip
    assert [each.result().status for each in futures] == ["completed", "cancelled"]
    assert [path.name for path in tmp_path.iterdir()] == [f"{one.id}.png"]


def test_what_was_made_of_a_job_that_fails_is_deleted(work, tmp_path):
    made = work(Hand(steps=1, finish=[None, OSError("gone")]), keep=True, batch=2)
    future = made.worker.submit(job("a", (1, 2)))
    made.run()
    assert future.result().status == "failed" and not list(tmp_path.iterdir())


def test_how_a_worker_ends(work):
    made = work(Hand(), queued=2)
    worker = made.worker
    waiting = [worker.submit(job(kind=kind)) for kind in ("image", "video")]
    with pytest.raises(Busy, match="the queue is full: 2 requests wait"):
        worker.submit(job())
    assert len(worker.jobs.all("image")) == 1, "what is not taken is not remembered"
    worker.drain()
    assert [type(each.result().error) for each in waiting] == [Stopping, Stopping]
    running = job(kind="video")
    future = worker.jobs.add(running)
    worker.jobs.begin(running.id)
    worker.halt()
    assert type(future.result().error) is Stopping and future.result().started is not None
    worker.start()
    worker.stop()
    assert not worker.alive and worker._thread.ident is not None and not worker._thread.is_alive()
    assert made.hand.did == [("dismiss",)]


# ------------------------------------------------------------------------------ groups


@pytest.fixture
def groups():
    def make(count: int = 2, queued: int = 9) -> Workers:
        engine: Any = None
        hands: Any = [Hand() for _ in range(count)]
        return Workers(engine, Storage(None), WorkerOptions(queued=queued), lambda *_: None, hands)

    return make


def test_a_job_goes_to_the_group_with_the_fewest_samples(groups):
    workers = groups(3)
    for seeds, wanted in (((1, 2, 3), 0), ((1,), 1), ((1, 2), 2), ((1,), 1), ((1,), 1), ((1,), 2), ((1,), 0)):
        before = [len(one.queue) for one in workers.groups]
        workers.submit(job(seeds=seeds))
        after = [len(one.queue) for one in workers.groups]
        assert [b - a for a, b in zip(before, after, strict=True)] == [len(seeds) * (n == wanted) for n in range(3)]


def test_jobs_that_are_over_count_no_more_and_all_that_wait_are_bounded(groups):
    workers = groups(2, queued=2)
    first, second = job(seeds=(1, 2, 3)), job()
    for each in (first, second):
        workers.submit(each)
    with pytest.raises(Busy, match="2 requests wait"):
        workers.submit(job())
    workers.cancel(first.id)
    workers.cancel(second.id)
    assert not any(len(one.queue) for one in workers.groups)
    third = job()
    workers.submit(third)
    assert [len(one.queue) for one in workers.groups] == [1, 0] and list(workers._given) == [third.id]


def test_all_groups_are_started_asked_and_ended(groups):
    workers = groups()
    assert not workers.alive and not workers.warm and workers.lost is None
    workers.start()
    for one in workers.groups:
        assert one.ready.wait(10)
    assert workers.alive and workers.warm and workers.jobs is workers.groups[1].jobs
    workers.groups[1].ready.clear()
    assert not workers.warm
    workers.groups[1].lost = error = RuntimeError("gone")
    assert workers.lost is error
    workers.groups[1].lost = None
    workers.groups[1].stop()
    assert not workers.alive
    workers.stop()
    hands: Any = [one.hand for one in workers.groups]
    assert [hand.did.count(("dismiss",)) >= 1 for hand in hands] == [True, True]


def test_all_groups_are_halted_before_any_is_waited_for(groups, monkeypatch):
    workers, did = groups(), []
    for number, one in enumerate(workers.groups):
        for name in ("drain", "halt", "stop"):
            monkeypatch.setattr(one, name, lambda *each, what=(name, number): did.append((*what, *each)))
    workers.drain()
    workers.stop(3.0)
    assert did == [("drain", 0), ("drain", 1), ("halt", 0), ("halt", 1), ("stop", 0, 3.0), ("stop", 1, 3.0)]


def test_an_entry_is_of_its_job_until_it_is_over():
    assert not JobEntry(job=job()).over and JobEntry(job=job(), ended=1.0).over
