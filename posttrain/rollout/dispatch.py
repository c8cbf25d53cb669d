"""Rollouts spread over replicas, on a thread of its own: what a lost replica leaves unfinished goes to another."""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import httpx

from posttrain.errors import EngineDied, EngineError
from posttrain.rollout.pending import PendingRollout
from posttrain.rollout.replica import Replica

logger = logging.getLogger(__name__)

Choice = dict[str, Any]
"""``choices[0]`` of the answer of ``/inference/v1/generate``."""


class Dispatcher:
    """Sends each rollout to the replica with the fewest, those of one group to the same: they share a prompt.

    A replica is lost when its connection breaks, when it is silent for ``stall_s``, or when a rollout takes longer than
    ``rollout_deadline_s``.

    Args:
        revive: called on another thread with a lost replica that has a restart left; raises ``EngineError`` if it
            stays lost.
    """

    def __init__(
        self, replicas: Sequence[Replica], stall_s: float, rollout_deadline_s: float, revive: Callable[[Replica], None]
    ) -> None:
        self.replicas = replicas
        self.stall_s = stall_s
        self.rollout_deadline_s = rollout_deadline_s
        self.revive = revive
        self.outstanding = 0
        self._answers: queue.SimpleQueue[tuple[PendingRollout, Choice | Exception]] = queue.SimpleQueue()
        self._home: dict[tuple[int, str], Replica] = {}
        self._drawing: set[asyncio.Task[None]] = set()
        self._reviving: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rollouts", daemon=True)
        self._thread.start()
        self._on_loop(self._open()).result()

    # ---- called by the engine -----------------------------------------------------------------------------------

    def submit(self, pending: Sequence[PendingRollout]) -> None:
        """Begin to draw ``pending``."""
        self.outstanding += len(pending)
        self._on_loop(self._begin(pending)).result()

    def answers(self) -> Iterator[tuple[PendingRollout, Choice]]:
        """What has been drawn, as it arrives, until nothing is outstanding.

        Raises:
            EngineDied: no replica is left.
            EngineError: vLLM refuses a request.
        """
        while self.outstanding:
            pending, answer = self._answers.get()
            self.outstanding -= 1
            if isinstance(answer, Exception):
                raise answer
            yield pending, answer

    def abort(self) -> None:
        """Drop what is outstanding; a closed connection ends a rollout in the server."""
        self._on_loop(self._stop(self._drawing)).result()
        self.outstanding, self._answers = 0, queue.SimpleQueue()

    def settle(self) -> None:
        """Wait until no replica is being revived, and let each be restarted once more."""
        self._on_loop(self._revived()).result()
        for replica in self.replicas:
            replica.restarts_left = 1

    def close(self) -> None:
        """End the thread."""
        self.abort()
        self._on_loop(self._close()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ---- on the thread ------------------------------------------------------------------------------------------

    def _on_loop(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _open(self) -> None:
        self._client = httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None))
        self._slots = {replica.url: asyncio.Semaphore(replica.max_num_seqs + 8) for replica in self.replicas}
        self._watches = {asyncio.create_task(self._watch(replica)) for replica in self.replicas}

    async def _close(self) -> None:
        await self._revived()
        await self._stop(self._watches)
        await self._client.aclose()

    async def _stop(self, tasks: set[asyncio.Task[None]]) -> None:
        stopping = list(tasks)
        for task in stopping:
            task.cancel()
        await asyncio.gather(*stopping, return_exceptions=True)
        self._home.clear()

    async def _revived(self) -> None:
        await asyncio.gather(*self._reviving)

    async def _begin(self, pending: Sequence[PendingRollout]) -> None:
        if not self._drawing:
            self._home.clear()
        for row in pending:
            _keep(self._drawing, self._draw(row))

    async def _draw(self, pending: PendingRollout) -> None:
        answer: Choice | Exception | None = None
        try:
            while answer is None:
                answer = await self._attempt(pending)
        except EngineError as error:
            answer = error
        self._answers.put((pending, answer))

    async def _attempt(self, pending: PendingRollout) -> Choice | None:
        """Draw on one replica; None if it is lost before the answer."""
        replica = await self._replica_for(pending)
        replica.load += 1
        try:
            async with self._slots[replica.url]:
                return None if replica.lost.is_set() else await self._ask(replica, pending)
        finally:
            replica.load -= 1

    async def _ask(self, replica: Replica, pending: PendingRollout) -> Choice | None:
        asked = asyncio.ensure_future(self._client.post(f"{replica.url}/inference/v1/generate", json=_body(pending)))
        lost = asyncio.ensure_future(replica.lost.wait())
        try:
            await asyncio.wait({asked, lost}, timeout=self.rollout_deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                self._lose(replica, f"a rollout took longer than {self.rollout_deadline_s:g} s")
                return None
            response = asked.result()
        except httpx.HTTPError as error:
            self._lose(replica, f"{type(error).__name__} {error}")
            return None
        finally:
            asked.cancel()
            lost.cancel()
        if response.status_code == 400:
            sampling = pending.request.sampling
            raise EngineError(f"vLLM refuses the sampling settings {sampling}: {response.text[:300]}")
        if response.status_code in (403, 404):
            raise EngineError(f"{replica.url} does not draw token ids: start it with --enable-scale-out")
        choice: Choice = response.json()["choices"][0] if response.is_success else {"finish_reason": "abort"}
        if choice["finish_reason"] == "abort":  # a server that is going down
            self._lose(replica, f"it answers {response.status_code} {response.text[:300]}")
            return None
        return choice

    async def _replica_for(self, pending: PendingRollout) -> Replica:
        """The replica that the rollout's group is drawn on, else that with the fewest rollouts."""
        while not (alive := [replica for replica in self.replicas if not replica.lost.is_set()]):
            if not self._reviving:
                raise EngineDied(f"no rollout replica is left of {', '.join(r.url for r in self.replicas)}")
            await asyncio.wait(self._reviving, return_when=asyncio.FIRST_COMPLETED)
        group = (pending.request.group, pending.request.example.id)
        home = self._home.get(group)
        if home is None or home.lost.is_set():
            home = self._home[group] = min(alive, key=lambda replica: replica.load)
        return home

    async def _watch(self, replica: Replica) -> None:
        """Ask a replica that has rollouts to draw whether it is there."""
        while True:
            await asyncio.sleep(self.stall_s / 2)
            if replica.load and not replica.lost.is_set():
                try:
                    response = await self._client.get(f"{replica.url}/health", timeout=self.stall_s)
                    response.raise_for_status()
                except httpx.HTTPError as error:
                    self._lose(replica, f"{type(error).__name__} {error}")

    def _lose(self, replica: Replica, why: str) -> None:
        """Take ``replica`` out; what it had to draw starts again elsewhere."""
        if replica.lost.is_set():
            return
        replica.lost.set()
        restarting = replica.process is not None and replica.restarts_left > 0
        logger.warning("rollout replica %s is lost: %s%s", replica.url, why, "; restarting it" if restarting else "")
        if restarting:
            replica.restarts_left -= 1
            _keep(self._reviving, self._revive(replica))

    async def _revive(self, replica: Replica) -> None:
        try:
            await asyncio.to_thread(self.revive, replica)
        except EngineError as error:
            logger.warning("rollout replica %s stays lost: %s", replica.url, error)
        else:
            replica.lost.clear()


def _keep(tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
    """Run ``work``; a task lives only as long as something refers to it."""
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def generate_body(input_ids: Sequence[int], sampling_params: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a request to ``/inference/v1/generate``."""
    return {"token_ids": list(input_ids), "sampling_params": {"detokenize": False, **sampling_params}}


def _body(pending: PendingRollout) -> dict[str, Any]:
    sampling = pending.request.sampling
    return generate_body(
        pending.input_ids,
        {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "max_tokens": pending.max_new_tokens,
            "stop_token_ids": list(sampling.stop_token_ids),
            "seed": pending.seed,
            "logprobs": 0,
        },
    )
