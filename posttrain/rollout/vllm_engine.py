"""vLLM in this process: the engine shares the trainer's memory, so weights go over without a copy through a disk."""

import gc
import logging
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.errors import EngineDied, EngineError
from posttrain.rollout.config import VLLMEngineConfig, VLLMSettings
from posttrain.rollout.pending import PendingRollout, in_request_order, pending_rollouts
from posttrain.rollout.transfer import checked
from posttrain.rollout.vllm_weights import parameter_shapes, replace_weights, weights_fingerprint
from posttrain.types import Rollout, RolloutRequest

logger = logging.getLogger(__name__)


class VLLMEngine:
    """A ``RolloutEngine`` on vLLM's ``LLM``.

    Raises:
        EngineError: vLLM cannot be started with this model and these settings.
    """

    llm: Any
    engine: Any

    def __init__(self, model_path: str | Path, config: VLLMEngineConfig, seed: int) -> None:
        self.dtype = getattr(torch, config.dtype)
        self.policy_version = 0
        self.continuous = True
        self.takes_adapter = False
        self.model_path, self.config, self.seed = str(model_path), config, seed % 2**31
        self._start()
        self.shapes = parameter_shapes(self.model_path)
        self._weights: list[Sequence[tuple[str, Tensor]]] = []
        self._restarts_left = int(config.restart)
        self.tokenizer = self.llm.get_tokenizer()
        self._numbers = count()
        self._outstanding: dict[str, PendingRollout] = {}
        self._complete: list[tuple[PendingRollout, Any]] = []

    def _start(self) -> None:
        try:
            with process_state_kept():
                self.llm = _start_vllm(self.model_path, self.config, self.seed)
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineError(f"vLLM could not be started on {self.model_path!r}: {error}") from error
        self.engine = self.llm.llm_engine

    @property
    def context_length(self) -> int:
        """Most tokens of a prompt and its completion."""
        return int(self.engine.model_config.max_model_len)

    def submit(self, requests: Sequence[RolloutRequest]) -> None:
        """Hand ``requests`` to vLLM's scheduler; they run as ``finished`` is consumed.

        Raises:
            EngineError: a prompt is empty or does not fit the model's context, or vLLM refuses the sampling settings.
        """
        for pending in pending_rollouts(requests, self.context_length):
            if pending.max_new_tokens == 0:
                self._complete.append((pending, None))
                continue
            number = str(next(self._numbers))
            self.engine.add_request(number, {"prompt_token_ids": pending.input_ids}, _sampling_params(pending))
            self._outstanding[number] = pending

    def finished(self) -> Iterator[Rollout]:
        """Rollouts as they finish. If the consumer leaves early, what is outstanding is dropped.

        Raises:
            EngineDied: vLLM failed a second time since the last weight update, or could not be started again.
        """
        try:
            while self._outstanding or self._complete:
                yield from self._step()
        finally:
            self._drop()

    def abort(self) -> None:
        """Let ``finished`` yield what is outstanding as far as it was drawn: vLLM itself would drop that."""
        from vllm.v1.engine import FinishReason

        processor = self.engine.output_processor
        for number, pending in self._outstanding.items():
            (name,) = processor.external_req_ids[number]
            output = processor.request_states[name].make_request_output([], None, FinishReason.ABORT, None)
            self._complete.append((pending, output.outputs[0]))
        self.engine.abort_request(list(self._outstanding))
        self._outstanding = {}

    def generate(self, requests: Sequence[RolloutRequest]) -> list[Rollout]:
        """All rollouts of ``requests``, ordered by request and index; nothing else may be outstanding."""
        self._check_idle("generate")
        self.submit(requests)
        return in_request_order(self.finished(), requests)

    def next_token_logprobs(self, requests: Sequence[RolloutRequest], top: int) -> list[dict[int, float]]:
        """The ``top`` likeliest next tokens after each prompt, and the one that was drawn (see ``RolloutEngine``).

        Raises:
            EngineError: as ``submit`` does.
        """
        from vllm import SamplingParams

        self._check_idle("next_token_logprobs")
        pending = pending_rollouts(requests, self.context_length)
        prompts = [{"prompt_token_ids": row.input_ids} for row in pending]
        outputs = self.llm.generate(prompts, SamplingParams(max_tokens=1, logprobs=top), use_tqdm=False)
        return [{token: entry.logprob for token, entry in output.outputs[0].logprobs[0].items()} for output in outputs]

    def update_weights(self, buckets: Iterable[Sequence[tuple[str, Tensor]]], version: int) -> None:
        """Replace the whole policy, and forget every key and value computed with the old one.

        Raises:
            WeightSyncError: a tensor is unknown, has another shape, or is missing.
            EngineError: rollouts are outstanding; their behaviour policy would change while they are drawn.
        """
        self._check_idle("update_weights")
        self._weights = []
        replace_weights(self._model(), self.engine.vllm_config, self._kept(checked(buckets, self.shapes)))
        self._forget_prefixes()
        self.policy_version = version
        self._restarts_left = int(self.config.restart)

    def _kept(self, buckets: Iterable[Sequence[tuple[str, Tensor]]]) -> Iterator[Sequence[tuple[str, Tensor]]]:
        """Pass ``buckets`` on; with ``restart``, copies of them stay in host memory."""
        for bucket in buckets:
            if self.config.restart:
                self._weights.append([(name, tensor.to("cpu", copy=True)) for name, tensor in bucket])
            yield bucket

    def _restart(self, error: Exception) -> None:
        """Start vLLM again with the current weights and all that is outstanding."""
        if self._restarts_left == 0:
            raise EngineDied(f"vLLM failed, and is not started again before a weight update: {error}") from error
        logger.warning("vLLM failed and is started again: %s", error)
        self._restarts_left -= 1
        try:
            self.engine.engine_core.shutdown()
            self.llm = self.engine = None
            gc.collect()
            self._start()
            if self._weights:
                replace_weights(self._model(), self.engine.vllm_config, self._weights)
        except Exception as second:
            self._outstanding = {}
            raise EngineDied(f"vLLM failed ({error}), and could not be started again: {second}") from second
        for number, pending in self._outstanding.items():
            self.engine.add_request(number, {"prompt_token_ids": pending.input_ids}, _sampling_params(pending))

    def fingerprint(self) -> Mapping[str, float]:
        """The number of every tensor in use; on a CPU packed weights are probed through their kernel."""
        return weights_fingerprint(self._model())

    def sleep(self) -> None:
        """With ``sleep_mode``, move the weights to host memory and free the cache; otherwise nothing."""
        self._check_idle("sleep")
        if self.config.sleep_mode:
            self.llm.sleep(level=1)

    def wake(self) -> None:
        """Take the memory back that ``sleep`` freed."""
        if self.config.sleep_mode:
            self.llm.wake_up()

    def close(self) -> None:
        """End vLLM and free its memory."""
        self._drop()
        if self.engine is not None:
            self.engine.engine_core.shutdown()

    def _step(self) -> list[Rollout]:
        """One step of vLLM's scheduler; the rollouts that ended with it."""
        ended, self._complete = self._complete, []
        if self._outstanding:
            try:
                outputs = [output for output in self.engine.step() if output.finished]
            except Exception as error:  # whatever it was, this vLLM is of no more use
                self._restart(error)
                outputs = []
            ended += [(self._outstanding.pop(output.request_id), output.outputs[0]) for output in outputs]
        if not ended:
            return []
        sampled = [list(output.token_ids) if output else [] for _, output in ended]
        texts = self.tokenizer.batch_decode(
            [pending.given_ids + ids for (pending, _), ids in zip(ended, sampled, strict=True)],
            skip_special_tokens=True,
        )
        return [
            pending.rollout(
                ids,
                output.logprobs.logprobs if ids else [],
                "length" if output is None else "aborted" if output.finish_reason == "abort" else output.finish_reason,
                self.policy_version,
                text,
            )
            for (pending, output), ids, text in zip(ended, sampled, texts, strict=True)
        ]

    def _model(self) -> Any:
        return self.engine.model_executor.driver_worker.model_runner.get_model()

    def _forget_prefixes(self) -> None:
        if not self.llm.reset_prefix_cache():
            raise EngineError("vLLM did not reset its prefix cache; its rollouts would mix two policies")

    def _drop(self) -> None:
        if self._outstanding:
            self.engine.abort_request(list(self._outstanding))
        self._outstanding, self._complete = {}, []

    def _check_idle(self, what: str) -> None:
        if self._outstanding or self._complete:
            raise EngineError(f"{what} was called while rollouts are outstanding; consume finished() first")


def set_environment() -> None:
    """Keep vLLM in this process, and quiet. It reads the environment while it is imported, so call this before."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def vllm_arguments(model_path: str, config: VLLMSettings, seed: int) -> dict[str, Any]:
    """The arguments of vLLM's ``LLM``, and of its server, for the device that there is.

    Raises:
        EngineError: the device cannot do what the settings ask for.
    """
    set_environment()
    from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    if on_cpu and config.dtype != "float32":
        raise EngineError(f"engine.dtype is {config.dtype}: on a CPU vLLM runs float32")
    device_settings = (
        # A prompt cut into chunks makes vLLM wind back the request's generator, which one on a CPU cannot.
        {"kv_cache_memory_bytes": config.kv_cache_gib << 30, "enable_chunked_prefill": False}
        if on_cpu
        else {"gpu_memory_utilization": config.gpu_memory_utilization}
    )
    return {
        "model": model_path,
        "dtype": config.dtype,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "enforce_eager": on_cpu if config.enforce_eager is None else config.enforce_eager,
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
        "seed": seed,
        **device_settings,
    }


def _start_vllm(model_path: str, config: VLLMEngineConfig, seed: int) -> Any:
    arguments = vllm_arguments(model_path, config, seed)
    from vllm import LLM
    from vllm.platforms import current_platform

    if config.sleep_mode and current_platform.is_cpu():
        raise EngineError("engine.sleep_mode is for GPUs: on a CPU vLLM accepts it and frees nothing")
    return LLM(**arguments, enable_sleep_mode=config.sleep_mode)


def _sampling_params(pending: PendingRollout) -> Any:
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError
    from vllm.sampling_params import RequestOutputKind

    sampling = pending.request.sampling
    try:
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=pending.max_new_tokens,
            stop_token_ids=list(sampling.stop_token_ids),
            seed=pending.seed,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
    except VLLMValidationError as error:
        raise EngineError(f"vLLM refuses the sampling settings {sampling}: {error}") from error


@contextmanager
def process_state_kept() -> Iterator[None]:
    """vLLM seeds the generators of the whole process and replaces ``torch.set_num_threads``: put both back."""
    python_state, numpy_state, set_num_threads = random.getstate(), np.random.get_state(), torch.set_num_threads
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            torch.set_num_threads = set_num_threads
