"""Laws of the batcher, with a scripted ``run_batch`` in place of a model."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreward.engines.base import Generation, Request, Sampling
from selfreward.engines.batcher import Batcher, batch_seed


class Model:
    """Answers with the request's first id and seed; records its batches; can be held and broken."""

    def __init__(self) -> None:
        self.batches: list[list[Request]] = []
        self.threads: set[str] = set()
        self.may_run = threading.Event()
        self.may_run.set()
        self.started = threading.Event()
        self.broken_by: int | None = None

    def __call__(self, requests: Sequence[Request]) -> list[list[Generation]]:
        self.batches.append(list(requests))
        self.threads.add(threading.current_thread().name)
        self.started.set()
        assert self.may_run.wait(10)
        if any(request.token_ids[0] == self.broken_by for request in requests):
            raise MemoryError("too much")
        return [
            [
                Generation(f"{request.token_ids[0]}:{request.seed + i}", (), "stop")
                for i in range(request.n)
            ]
            for request in requests
        ]


def ask(first: int, length: int = 1, n: int = 1, seed: int = 0, **sampling: float) -> Request:
    how = Sampling(max_new_tokens=8, **sampling)  # type: ignore[arg-type]
    return Request((first,) * length, how, n=n, seed=seed)


def texts(generations: list[Generation]) -> list[str]:
    return [generation.text for generation in generations]


def in_batcher(model: Model, body: Callable[[Batcher], Awaitable[None]], size: int = 4) -> None:
    async def main() -> None:
        batcher = Batcher(model, size)
        try:
            await body(batcher)
        finally:
            await batcher.close()

    asyncio.run(main())


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 6)), min_size=1, max_size=12),
    st.integers(1, 8),
    st.integers(1, 120),
)
@settings(max_examples=50, deadline=None)
def test_a_batch_holds_no_more_sequences_and_tokens_than_it_may(
    asked: list[tuple[int, int]], size: int, tokens: int
) -> None:
    model = Model()

    async def main() -> list[list[Generation]]:
        batcher = Batcher(model, size, tokens)
        requests = [ask(i, length, n) for i, (length, n) in enumerate(asked)]
        try:
            return await asyncio.gather(*map(batcher.submit, requests))
        finally:
            await batcher.close()

    found = asyncio.run(main())
    for i, (_, n) in enumerate(asked):
        assert texts(found[i]) == [f"{i}:{sample}" for sample in range(n)]
    for batch in model.batches:
        num = sum(request.n for request in batch)
        longest = max(len(request.token_ids) + 8 for request in batch)
        assert num <= size
        assert num * longest <= tokens or num == 1


def test_room_for_tokens_is_used() -> None:
    model = Model()

    async def main() -> None:
        batcher = Batcher(model, 64, 4 * (10 + 8))
        await asyncio.gather(*(batcher.submit(ask(i, 10)) for i in range(9)))
        await batcher.close()

    asyncio.run(main())
    assert [len(batch) for batch in model.batches] == [4, 4, 1]


def test_requests_in_flight_at_once_share_a_batch_and_get_their_own_answers() -> None:
    model = Model()

    async def body(batcher: Batcher) -> None:
        answers = await asyncio.gather(*(batcher.submit(ask(i)) for i in range(4)))
        assert [texts(answer) for answer in answers] == [["0:0"], ["1:0"], ["2:0"], ["3:0"]]

    in_batcher(model, body)
    assert [len(batch) for batch in model.batches] == [4]


def test_a_batch_holds_no_more_sequences_than_allowed() -> None:
    model = Model()

    async def body(batcher: Batcher) -> None:
        await asyncio.gather(*(batcher.submit(ask(i, n=3)) for i in range(5)))

    in_batcher(model, body, size=7)
    assert [sum(request.n for request in batch) for batch in model.batches] == [6, 6, 3]


def test_a_request_larger_than_a_batch_is_split_and_keeps_the_seeds_of_its_samples() -> None:
    model = Model()

    async def body(batcher: Batcher) -> None:
        answer = await batcher.submit(ask(5, n=6, seed=10))
        assert texts(answer) == [f"5:{seed}" for seed in range(10, 16)]

    in_batcher(model, body, size=4)
    assert sorted(request.n for batch in model.batches for request in batch) == [2, 4]


def test_only_requests_of_one_kind_share_a_batch_and_the_oldest_kind_goes_first() -> None:
    model = Model()
    cold, warm = ask(1, temperature=0.0), ask(2, temperature=1.0)
    score, other = Request((3,), score_tokens=(7, 8)), Request((4,), score_tokens=(7, 9))

    async def body(batcher: Batcher) -> None:
        order = [warm, cold, score, warm, other, cold]
        await asyncio.gather(*map(batcher.submit, order))

    in_batcher(model, body, size=8)
    assert model.batches == [[warm, warm], [cold, cold], [score], [other]]


def test_a_batch_holds_the_oldest_request_and_those_most_like_it_in_length() -> None:
    model = Model()
    lengths = [50, 1, 52, 90, 49, 10]

    async def body(batcher: Batcher) -> None:
        await asyncio.gather(*(batcher.submit(ask(0, length)) for length in lengths))

    in_batcher(model, body, size=3)
    batches = [[len(request.token_ids) for request in batch] for batch in model.batches]
    assert batches == [[49, 50, 52], [1, 10, 90]]


def test_the_event_loop_stays_free_while_a_batch_runs() -> None:
    model = Model()
    model.may_run.clear()

    async def body(batcher: Batcher) -> None:
        running = asyncio.create_task(batcher.submit(ask(1)))
        while not model.started.is_set():
            await asyncio.sleep(0)
        late = asyncio.create_task(batcher.submit(ask(2)))
        await asyncio.sleep(0.01)
        assert not running.done()
        model.may_run.set()
        assert [texts(answer) for answer in await asyncio.gather(running, late)] == [
            ["1:0"],
            ["2:0"],
        ]

    in_batcher(model, body)
    assert len(model.threads) == 1


def test_what_answers_lead_to_joins_the_next_batch() -> None:
    """Eight conversations of three turns keep the batch full: 3 batches, not 3 and stragglers."""
    model = Model()

    async def talk(batcher: Batcher, who: int) -> None:
        for _ in range(3):
            await batcher.submit(ask(who))

    async def body(batcher: Batcher) -> None:
        await asyncio.gather(*(talk(batcher, who) for who in range(8)))

    in_batcher(model, body, size=8)
    assert [len(batch) for batch in model.batches] == [8, 8, 8]


def test_requests_that_a_limit_held_back_join_those_left_over() -> None:
    """With six in flight and batches of four: never a batch of the two that are left over."""
    model = Model()

    async def body(batcher: Batcher) -> None:
        flying: set[asyncio.Task[list[Generation]]] = set()
        for i in range(16):
            flying.add(asyncio.create_task(batcher.submit(ask(i))))
            if len(flying) == 6:
                _, flying = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(flying)

    in_batcher(model, body, size=4)
    assert [len(batch) for batch in model.batches] == [4, 4, 4, 4]


def test_an_error_reaches_the_requests_of_its_batch_alone() -> None:
    model = Model()
    model.broken_by = 1

    async def body(batcher: Batcher) -> None:
        requests = [ask(0), ask(1), ask(2), ask(3)]
        answers = await asyncio.gather(*map(batcher.submit, requests), return_exceptions=True)
        assert [type(answer) for answer in answers] == [MemoryError, MemoryError, list, list]
        model.broken_by = None
        assert texts(await batcher.submit(ask(1))) == ["1:0"]

    in_batcher(model, body, size=2)


def test_a_request_that_is_cancelled_in_line_is_never_run() -> None:
    model = Model()
    model.may_run.clear()

    async def body(batcher: Batcher) -> None:
        running = asyncio.create_task(batcher.submit(ask(1)))
        while not model.started.is_set():
            await asyncio.sleep(0)
        waiting = asyncio.create_task(batcher.submit(ask(2)))
        await asyncio.sleep(0)
        waiting.cancel()
        model.may_run.set()
        assert texts(await running) == ["1:0"]
        assert texts(await batcher.submit(ask(3))) == ["3:0"]
        assert waiting.cancelled()

    in_batcher(model, body)
    assert [batch[0].token_ids[0] for batch in model.batches] == [1, 3]


def test_a_request_that_is_cancelled_while_it_runs_harms_no_other() -> None:
    model = Model()
    model.may_run.clear()

    async def body(batcher: Batcher) -> None:
        tasks = [asyncio.create_task(batcher.submit(ask(i))) for i in range(2)]
        while not model.started.is_set():
            await asyncio.sleep(0)
        tasks[0].cancel()
        model.may_run.set()
        assert texts(await tasks[1]) == ["1:0"]

    in_batcher(model, body)


def test_closing_cancels_what_waits_and_ends_the_thread() -> None:
    model = Model()
    model.may_run.clear()

    async def main() -> None:
        batcher = Batcher(model, 1)
        tasks = [asyncio.create_task(batcher.submit(ask(i))) for i in range(2)]
        while not model.started.is_set():
            await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        model.may_run.set()
        await closing
        assert texts(await tasks[0]) == ["0:0"]
        assert tasks[1].cancelled()
        await batcher.close()
        with pytest.raises(RuntimeError, match="closed"):
            await batcher.submit(ask(2))

    asyncio.run(main())
    assert len(model.batches) == 1
    assert not [thread for thread in threading.enumerate() if thread.name in model.threads]


def test_a_batcher_outlives_the_event_loop_that_used_it() -> None:
    batcher = Batcher(Model(), 4)
    for i in range(2):
        assert texts(asyncio.run(batcher.submit(ask(i)))) == [f"{i}:0"]
    asyncio.run(batcher.close())


def test_the_seed_of_a_batch_depends_on_the_seeds_and_their_order() -> None:
    a, b = ask(1, seed=1), ask(2, seed=2)
    seeds = [batch_seed(batch) for batch in ([a, b], [b, a], [a], [b])]
    assert len(set(seeds)) == 4
    assert batch_seed([a, b]) == seeds[0]
    assert all(0 <= seed < 2**31 for seed in seeds)
