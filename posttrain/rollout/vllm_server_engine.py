"""vLLM in servers: token ids in and out over HTTP, while this process does something else."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from posttrain.errors import EngineDied, EngineError, WeightSyncError
from posttrain.rollout.config import VLLMServerEngineConfig
from posttrain.rollout.dispatch import Dispatcher
from posttrain.rollout.fingerprint import fingerprint_mismatches
from posttrain.rollout.head_shares import head_shares
from posttrain.rollout.pending import PendingRollout, in_request_order, pending_rollouts
from posttrain.rollout.replica import Replica, ReplicaLost, ServerProcess, is_healthy
from posttrain.rollout.transfer import checked
from posttrain.rollout.vllm_weights import model_summary, parameter_shapes
from posttrain.rollout.weight_transfer import AdapterTransfer, FileTransfer, NCCLTransfer, at_once
from posttrain.types import Rollout, RolloutRequest


class VLLMServerEngine:
    """A ``RolloutEngine`` on vLLM servers ("replicas").

    A replica that is lost is restarted with the current weights, once between two weight updates, and its rollouts are
    drawn by the others meanwhile; one that was given by its address stays out until the next weight update finds it.

    Raises:
        EngineError: a replica cannot be started or reached, or is not one that can be trained with.
    """

    def __init__(self, model_path: str | Path, config: VLLMServerEngineConfig, seed: int) -> None:
        self.config = config
        self.dtype = getattr(torch, config.dtype)
        self.continuous = True
        self.takes_adapter = config.max_lora_rank is not None
        self.policy_version = 0
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(model_path))
            self.shapes = parameter_shapes(str(model_path))
            model = AutoConfig.from_pretrained(str(model_path))
        except (OSError, ValueError) as error:
            raise EngineError(f"the rollout engine cannot load a model from {str(model_path)!r}: {error}") from error
        self.model = model_summary(model)
        if config.tensor_parallel > 1 and not config.urls:
            fitting = head_shares(model.get_text_config())
            if config.tensor_parallel not in fitting:
                raise EngineError(
                    f"engine.tensor_parallel: the model's heads cannot be shared by {config.tensor_parallel} workers; "
                    f"take {', '.join(map(str, fitting))}"
                )
        self._folder = Path(tempfile.mkdtemp(prefix="posttrain_server_"))
        self._transfer = _transfer(config, config.weights_folder or self._folder)
        self._fingerprint: Mapping[str, float] = {}
        self.replicas: list[Replica] = []
        try:
            self.replicas = _replicas(str(model_path), config, seed % 2**31, self._folder)
            at_once(self.replicas, self._start)
        except BaseException:
            at_once(self.replicas, Replica.close)
            if not any(self._folder.iterdir()):  # otherwise the error names a log in it
                self._folder.rmdir()
            raise
        self._dispatcher = Dispatcher(self.replicas, config.stall_s, config.rollout_deadline_s, self._start)

    @property
    def context_length(self) -> int:
        """Most tokens of a prompt and its completion."""
        return min(replica.max_model_len for replica in self.replicas)

    def submit(self, requests: Sequence[RolloutRequest]) -> None:
        """Hand ``requests`` to the replicas, which begin at once.

        Raises:
            EngineError: a prompt is empty or does not fit the model's context.
        """
        self._dispatcher.submit(pending_rollouts(requests, self.context_length))

    def finished(self) -> Iterator[Rollout]:
        """Rollouts as they finish. If the consumer leaves early, what is outstanding is dropped.

        Raises:
            EngineDied: no replica is left.
            EngineError: vLLM refuses the sampling settings.
        """
        try:
            for pending, choice in self._dispatcher.drawn():
                yield self._rollout(pending, choice)
        finally:
            self._dispatcher.drop()

    def abort(self) -> None:
        """Let ``finished`` yield what is outstanding as far as it was drawn."""
        self._dispatcher.abort()

    def generate(self, requests: Sequence[RolloutRequest]) -> list[Rollout]:
        """All rollouts of ``requests``, ordered by request and index; nothing else may be outstanding."""
        self._check_idle("generate")
        self.submit(requests)
        return in_request_order(self.finished(), requests)

    def next_token_logprobs(self, requests: Sequence[RolloutRequest], top: int) -> list[dict[int, float]]:
        """The ``top`` likeliest next tokens after each prompt, and the one that was drawn (see ``RolloutEngine``)."""
        self._check_idle("next_token_logprobs")
        # one more: the drawn token comes first, and takes a place among them
        sampling_params = {"max_tokens": 1, "logprobs": top + 1, "detokenize": False}
        replica, *_ = self._alive()

        def ask(pending: PendingRollout) -> dict[int, float]:
            body = {"token_ids": pending.input_ids, "sampling_params": sampling_params, "model": replica.adapter}
            (choice,) = replica.request("POST", "/inference/v1/generate", **body)["choices"]
            return {each["token_id"]: each["logprob"] for each in choice["logprobs"]["content"][0]["top_logprobs"]}

        return at_once(pending_rollouts(requests, self.context_length), ask)

    def update_weights(self, buckets: Iterable[Sequence[tuple[str, Tensor]]], version: int) -> None:
        """Replace the whole policy in every replica, and forget every key and value computed with the old one. Lost
        replicas come back if they can.

        Raises:
            WeightSyncError: a tensor is unknown, has another shape, or is missing.
            EngineError: rollouts are outstanding; their behaviour policy would change while they are drawn.
            EngineDied: a replica cannot be started again or does not take its weights, or none is left.
        """
        self._check_idle("update_weights")
        self._dispatcher.settle()
        self._fingerprint = {}
        at_once(self.replicas, self._find)
        alive = self._alive()
        try:
            self._transfer.send(buckets if self.takes_adapter else checked(buckets, self.shapes), alive)
            at_once(alive, lambda replica: replica.enter_version(version))
        except ReplicaLost as error:
            raise EngineDied(f"a rollout replica was lost while it got its weights: {error}") from error
        self.policy_version = version

    def fingerprint(self) -> Mapping[str, float]:
        """The number of every tensor in use, alike in all replicas.

        Raises:
            WeightSyncError: replicas hold different weights.
        """
        alive = self._alive()
        self._fingerprint, *others = at_once(alive, Replica.fingerprint)
        for replica, numbers in zip(alive[1:], others, strict=True):
            _check_alike(replica, numbers, self._fingerprint)
        return self._fingerprint

    def sleep(self) -> None:
        """Nothing: the replicas have devices of their own."""

    def wake(self) -> None:
        """Nothing: the replicas have devices of their own."""

    def close(self) -> None:
        """End the replicas that this process started."""
        self._dispatcher.close()
        at_once(self.replicas, Replica.close)
        shutil.rmtree(self._folder)

    def _rollout(self, pending: PendingRollout, choice: Mapping[str, Any]) -> Rollout:
        ids = choice.get("token_ids") or []
        text = self.tokenizer.decode(pending.given_ids + ids, skip_special_tokens=True)
        logprobs = [each["logprob"] for each in choice["logprobs"]["content"]] if ids else []
        version = int(choice["weight_versions"][-1]["version"]) if ids else self.policy_version
        reason = choice.get("finish_reason", "length")
        return pending.rollout(ids, logprobs, "aborted" if reason == "abort" else reason, version, text)

    def _alive(self) -> list[Replica]:
        alive = [replica for replica in self.replicas if not replica.lost.is_set()]
        if not alive:
            raise EngineDied(f"no rollout replica is left of {', '.join(r.url for r in self.replicas)}")
        return alive

    def _start(self, replica: Replica) -> None:
        """Start or find a replica, and give it the current weights if there are any but the model's own.

        Raises:
            EngineError: it does not start or answer, is not one to train with, or has other weights afterwards.
        """
        if replica.process is not None:
            replica.process.start()
        needed = {"dtype": self.config.dtype, "logprobs_mode": "processed_logprobs", "pipeline_parallel": 1}
        replica.check(needed | {"model": self.model}, self.config.max_lora_rank or 0)
        replica.enter_version(self.policy_version)
        if self._fingerprint:
            self._transfer.resend(replica)
            _check_alike(replica, replica.fingerprint(), self._fingerprint)
        replica.lost.clear()

    def _find(self, replica: Replica) -> None:
        """Before a weight update: bring a replica back that was lost, or has been lost since the last rollout."""
        replica.restarts_left = 1
        healthy = is_healthy(replica.url, self.config.stall_s)
        if healthy and not replica.lost.is_set():
            return
        replica.lost.set()
        if healthy or replica.process is not None:
            try:
                self._start(replica)
            except EngineError as error:
                raise EngineDied(f"a rollout replica was lost and cannot be brought back: {error}") from error

    def _check_idle(self, what: str) -> None:
        if self._dispatcher.outstanding:
            raise EngineError(f"{what} was called while rollouts are outstanding; consume finished() first")


def _transfer(config: VLLMServerEngineConfig, folder: Path) -> FileTransfer | NCCLTransfer:
    if config.max_lora_rank is not None:
        return AdapterTransfer(folder, config.max_lora_rank)
    return NCCLTransfer() if config.weight_transfer == "nccl" else FileTransfer(folder)


def _check_alike(replica: Replica, numbers: Mapping[str, float], expected: Mapping[str, float]) -> None:
    if problems := fingerprint_mismatches(expected, numbers):
        raise WeightSyncError(f"{replica.url} has other weights than were sent to all replicas: {problems[0]}")


def _replicas(model_path: str, config: VLLMServerEngineConfig, seed: int, folder: Path) -> list[Replica]:
    """Those of this rank: its share of the addresses, or processes that are still to be started."""
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    given, needed = (len(config.urls), ranks) if config.urls else (len(config.devices), ranks * config.replicas)
    if given < needed and (config.urls or config.devices):
        key = "urls" if config.urls else "devices"
        each = "one" if config.urls else f"{config.replicas} (engine.replicas)"
        raise EngineError(f"engine.{key} has {given} entries, {needed} are needed: {each} for each of {ranks} ranks")
    if config.urls:
        return [Replica(url, None, config.sync_deadline_s) for url in config.urls[rank::ranks]]
    numbers = range(rank * config.replicas, (rank + 1) * config.replicas)
    processes = [ServerProcess(model_path, config, seed, n, folder / f"replica_{n}.log") for n in numbers]
    return [Replica(process.url, process, config.sync_deadline_s) for process in processes]
