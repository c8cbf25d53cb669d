"""Policy and environments take turns, and neither waits for the other: the loop under episodes and tree search."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
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
    answer here, and submit the requests that follow from it. Yields after each.

    What is asked of an engine of fixed batches waits for the next batch anyway: there all answers are accepted at once,
    in the order of the rollouts, so that the batches do not depend on who answered first.
    """
    answering: list[Future[Answer]] = []

    def accept_done() -> Iterator[None]:
        nonlocal answering
        done = {future for future in answering if future.done()}
        in_order, answering = answering, [future for future in answering if future not in done]
        for future in in_order:
            if future in done:
                if requests := accept(future.result()):
                    engine.submit(requests)
                yield

    with ThreadPoolExecutor(threads, thread_name_prefix="environment") as executor:
        while True:
            for rollout in engine.finished():
                answering.append(executor.submit(answer, rollout))
                if engine.continuous:
                    yield from accept_done()
            if not answering:
                return
            wait(answering, return_when=FIRST_COMPLETED if engine.continuous else ALL_COMPLETED)
            yield from accept_done()
