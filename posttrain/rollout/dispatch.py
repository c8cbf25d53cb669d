"""Rollouts spread over replicas, on a thread of its own: what a lost replica leaves unfinished goes to another."""

import asyncio
import logging
import queue
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import httpx

from posttrain.errors import EngineDied, EngineError
from posttrain.rollout.pending import PendingRollout
from posttrain.rollout.replica import Replica

logger = logging.getLogger(__name__)

Drawn = tuple[PendingRollout, dict[str, Any]]
"""A rollout and ``choices[0]`` of the server's answer; empty where there was nothing to sample."""


class Dispatcher:
    """Sends the rollouts of one group, which share a prompt, to one replica: that with the fewest.

    A replica is lost when it refuses connections or breaks them, when it is silent for ``stall_s``, or when a rollout
    takes longer than ``rollout_deadline_s``. ``revive`` is called on another thread with a lost replica that has a
    restart left, and raises ``EngineError`` if it stays lost.
    """

    def __init__(
        self, replicas: Sequence[Replica], stall_s: float, rollout_deadline_s: float, revive: Callable[[Replica], None]
    ) -> None:
        self.replicas, self.revive = replicas, revive
        self.stall_s, self.rollout_deadline_s = stall_s, rollout_deadline_s
        self.outstanding: set[Future[Drawn]] = set()
        self.homes: dict[tuple[int, str], Replica] = {}
        self.aborting = False
        self._done: queue.SimpleQueue[Future[Drawn]] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rollouts", daemon=True)
        self._thread.start()
        self._on_loop(self._open()).result()

    def submit(self, pending: Sequence[PendingRollout]) -> None:
        """Begin to draw ``pending``."""
        if not self.outstanding:
            self.homes = {}
        for row in pending:
            future = self._on_loop(self._draw(row))
            self.outstanding.add(future)
            future.add_done_callback(self._done.put)

    def drawn(self) -> Iterator[Drawn]:
        """What has been drawn, as it arrives, until nothing is outstanding.

        Raises:
            EngineDied: no replica is left.
            EngineError: vLLM refuses a request.
        """
        while self.outstanding:
            future = self._done.get()
            if future in self.outstanding:  # otherwise it was dropped
                self.outstanding.remove(future)
                yield future.result()

    def abort(self) -> None:
        """Let ``drawn`` yield what is outstanding as far as it is drawn."""
        self._on_loop(self._abort(list(self.outstanding))).result()

    def drop(self) -> None:
        """Drop what is outstanding; a closed connection ends a rollout in the server."""
        dropped, self.outstanding = self.outstanding, set()
        for future in dropped:
            future.cancel()

    def settle(self) -> None:
        """Wait until no replica is being revived."""
        self._on_loop(self._settle()).result()

    def close(self) -> None:
        """End the thread."""
        self.drop()
        self._on_loop(self._close()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ---- on the thread ------------------------------------------------------------------------------------------

    def _on_loop(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _open(self) -> None:
        self._tls = ssl.create_default_context()
        self._client = self._new_client()
        self._idle_clients: list[httpx.AsyncClient] = []
        self._slots = {replica.url: asyncio.Semaphore(replica.max_num_seqs + 8) for replica in self.replicas}
        self._watches = [asyncio.create_task(self._watch(replica)) for replica in self.replicas]

    async def _close(self) -> None:
        await self._settle()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in (self._client, *self._idle_clients):
            await client.aclose()

    def _new_client(self) -> httpx.AsyncClient:
        # An idle connection is given up before the server does that, after 5 s, just as the next request is written.
        return httpx.AsyncClient(timeout=None, limits=httpx.Limits(keepalive_expiry=2.0), verify=self._tls)

    async def _settle(self) -> None:
        await asyncio.gather(*(replica.revival for replica in self.replicas if replica.revival is not None))

    async def _abort(self, drawing: Sequence[Future[Drawn]]) -> None:
        """Tell the replicas until all has come back: what they have not received yet they cannot end."""
        self.aborting = True
        while not all(future.done() for future in drawing):
            for replica in self.replicas:
                with suppress(httpx.HTTPError):  # a lost one has nothing to end
                    await self._client.post(f"{replica.url}/abort_requests", json={}, timeout=self.stall_s)
            await asyncio.sleep(0.05)
        self.aborting = False

    async def _draw(self, pending: PendingRollout) -> Drawn:
        choice: dict[str, Any] | None = None if pending.max_new_tokens else {}
        broken = 0
        while choice is None:
            if self.aborting:
                return pending, {"finish_reason": "abort"}
            replica = await self._replica_for(pending)
            replica.load += 1
            try:
                async with self._slots[replica.url]:
                    free = not replica.lost.is_set() and not self.aborting
                    choice = await self._ask(replica, pending) if free else None
            except httpx.HTTPError as error:
                broken += 1
                await self._probe(replica)
                if broken == 3:
                    self._lose(replica, f"its connections break: {type(error).__name__} {error}")
            finally:
                replica.load -= 1
        return pending, choice

    async def _ask(self, replica: Replica, pending: PendingRollout) -> dict[str, Any] | None:
        """The replica's answer; None if it is lost before."""
        body: dict[str, Any] = {"token_ids": pending.input_ids, "sampling_params": _sampling_params(pending)}
        body["model"] = adapter = replica.adapter  # None: the base model
        asked = asyncio.ensure_future(self._post(f"{replica.url}/inference/v1/generate", body))
        lost = asyncio.ensure_future(replica.lost.wait())
        try:
            await asyncio.wait({asked, lost}, timeout=self.rollout_deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                self._lose(replica, f"a rollout took longer than {self.rollout_deadline_s:g} s")
                return None
            response = asked.result()
        finally:
            asked.cancel()
            lost.cancel()
        if response.status_code == 400:
            sampling = pending.request.sampling
            raise EngineError(f"vLLM refuses the sampling settings {sampling}: {response.text[:300]}")
        if adapter is not None and response.status_code == 404 and adapter in response.text:
            self._lose(replica, f"it was restarted: {response.text[:300]}")
            return None
        if response.status_code in (403, 404):
            raise EngineError(f"{replica.url} does not draw token ids: start it with --enable-scale-out")
        choice: dict[str, Any] = response.json()["choices"][0] if response.is_success else {"finish_reason": "abort"}
        if choice["finish_reason"] == "abort" and not (self.aborting and response.is_success):
            self._lose(replica, f"it is going down: {response.status_code} {response.text[:300]}")
            return None
        return choice

    async def _post(self, url: str, body: dict[str, Any]) -> httpx.Response:
        """Through a client that no other request has: httpx looks at all connections of a client, for each of them,
        whenever a request begins or ends, and for hundreds at a time that is most of the work."""
        client = self._idle_clients.pop() if self._idle_clients else self._new_client()
        try:
            return await client.post(url, json=body)
        finally:
            self._idle_clients.append(client)

    async def _replica_for(self, pending: PendingRollout) -> Replica:
        while not (alive := [replica for replica in self.replicas if not replica.lost.is_set()]):
            revivals = [each.revival for each in self.replicas if each.revival and not each.revival.done()]
            if not revivals:
                raise EngineDied(f"no rollout replica is left of {', '.join(r.url for r in self.replicas)}")
            await asyncio.wait(revivals, return_when=asyncio.FIRST_COMPLETED)
        group = (pending.request.group, pending.request.example.id)
        if group not in self.homes or self.homes[group].lost.is_set():
            self.homes[group] = min(alive, key=lambda replica: replica.load)
        return self.homes[group]

    async def _watch(self, replica: Replica) -> None:
        """Ask a replica that has rollouts to draw whether it is there."""
        while True:
            await asyncio.sleep(self.stall_s / 2)
            if replica.load and not replica.lost.is_set():
                await self._probe(replica)

    async def _probe(self, replica: Replica) -> None:
        try:
            (await self._client.get(f"{replica.url}/health", timeout=self.stall_s)).raise_for_status()
        except httpx.HTTPError as error:
            self._lose(replica, f"{type(error).__name__} {error}")

    def _lose(self, replica: Replica, why: str) -> None:
        """Take ``replica`` out; what it had to draw starts again elsewhere."""
        if replica.lost.is_set():
            return
        replica.lost.set()
        logger.warning("rollout replica %s is lost: %s", replica.url, why)
        if replica.process is not None and replica.restarts_left:
            replica.restarts_left -= 1
            replica.revival = self._loop.run_in_executor(None, self._revive, replica)

    def _revive(self, replica: Replica) -> None:
        try:
            self.revive(replica)
        except EngineError as error:
            logger.warning("rollout replica %s stays lost: %s", replica.url, error)


def _sampling_params(pending: PendingRollout) -> dict[str, Any]:
    sampling = pending.request.sampling
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_tokens": pending.max_new_tokens,
        "stop_token_ids": list(sampling.stop_token_ids),
        "seed": pending.seed,
        "logprobs": 0,
        "detokenize": False,
    }
