"""Policy and environments take turns, and neither waits for the other: the loop under episodes and tree search."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from posttrain.rollout.engine import RolloutEngine
from posttrain.types import Rollout, RolloutRequest

Answer = TypeVar("Answer")


def alternate(
    engine: RolloutEngine,
    threads: int,
    answer: Callable[[Rollout], Answer],
    accept: Callable[[Answer], Sequence[RolloutRequest]],
) -> Iterator[None]:
    """Until ``engine`` has nothing outstanding: ``answer`` each finished rollout on one of ``threads``, ``accept`` the
    answer here, and submit the requests that follow from it. Yields after each."""
    answering: set[Future[Answer]] = set()

    def accept_all(done: set[Future[Answer]]) -> Iterator[None]:
        nonlocal answering
        answering -= done
        for future in done:
            if requests := accept(future.result()):
                engine.submit(requests)
            yield

    with ThreadPoolExecutor(threads, thread_name_prefix="environment") as executor:
        while True:
            for rollout in engine.finished():
                answering.add(executor.submit(answer, rollout))
                yield from accept_all({future for future in answering if future.done()})
            if not answering:
                return
            yield from accept_all(wait(answering, return_when=FIRST_COMPLETED).done)
