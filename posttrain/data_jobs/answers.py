"""A model's answers to rows, kept in a file as they come, so that none is asked for twice."""

import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from posttrain.config import Config
from posttrain.data.chat import PromptEncoder
from posttrain.errors import DataError
from posttrain.evaluation.held_out import answer_requests
from posttrain.rewards.judge.chat_endpoint import EndpointConfig
from posttrain.rewards.judge.judge_engine import model_files
from posttrain.rewards.judge.judgement import Conversation, Reply
from posttrain.rollout.engine import RolloutEngine
from posttrain.training.append_file import opened_to_append
from posttrain.types import ErrorKind, Example, FinishReason, Sampling


@dataclass(frozen=True, slots=True)
class Answer:
    """To the row ``id``; without ``output``, ``error`` and ``message`` say why. An engine's has its tokens."""

    id: str
    output: str | None
    completion_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason = "stop"
    error: ErrorKind | None = None
    message: str = ""


Progress = Callable[[int, int], None]  # answered, of how many


def answer_all(
    path: Path,
    depends_on: Mapping[str, Any],
    examples: Sequence[Example],
    ask: Callable[[Sequence[Example]], Generator[Answer]],
    on_progress: Progress,
    keep_failures: bool,
) -> dict[str, Answer]:
    """The answers in ``path``, and those to all other ``examples``, which are added to it as they come.

    Without ``keep_failures``, what failed is only returned, so that the next run asks again.

    Raises:
        DataError, JobError: as ``opened_to_append`` does, among others for answers that depend on other settings.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened_to_append(path, depends_on, by="other settings") as file:
        found = read_answers(path)
        with closing(ask([example for example in examples if example.id not in found])) as answers:
            for answer in answers:
                if keep_failures or answer.error is None:
                    file.write((json.dumps(asdict(answer)) + "\n").encode())
                    file.flush()
                found[answer.id] = answer
                on_progress(len(found), len(examples))
    return found


def read_answers(path: Path) -> dict[str, Answer]:
    """The answers in a file by the id of their row, but for a last line that was cut off; none without a file.

    Raises:
        DataError: a line is no answer.
    """
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    try:
        return {answer.id: answer for answer in (Answer(**json.loads(line)) for line in lines)}
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} has a line that is no answer: {error}; delete the file to start again") from error


def engine_answers(
    build: Callable[[], RolloutEngine], examples: Sequence[Example], sampling: Sampling, seed: int
) -> Generator[Answer]:
    """Answers of an engine, which is built only if there is something to ask. A row's answer depends on ``seed`` and
    the row alone, as in ``answer_and_score``; a prompt that is too long for the model is ``invalid_input``."""
    if not examples:
        return
    with closing(build()) as engine:
        room = engine.context_length - sampling.max_completion_tokens
        requests = answer_requests(PromptEncoder(engine.tokenizer), examples, sampling=sampling, n=1, seed=seed)
        for request in requests:
            if (tokens := len(request.prompt_ids)) > room:
                message = f"the prompt has {tokens} tokens, and the model has room for {room}"
                yield Answer(request.example.id, None, error="invalid_input", message=message)
        engine.submit([request for request in requests if len(request.prompt_ids) <= room])
        row_of = {request.id: request.example.id for request in requests}
        for rollout in engine.finished():
            yield Answer(row_of[rollout.request_id], rollout.text, rollout.completion_ids, rollout.finish_reason)


def endpoint_answers(
    config: EndpointConfig, examples: Sequence[Example], sampling: Sampling, seed: int, stop_after: int
) -> Generator[Answer]:
    """Answers of an endpoint, as they arrive; none any more after ``stop_after`` failures in a row."""
    failures = 0
    with closing(config.build()) as endpoint:
        threads = ThreadPoolExecutor(config.concurrency)
        try:
            questions = {example.id: [as_conversation(example)] for example in examples}
            asked = {
                threads.submit(endpoint.replies, each, sampling, seed, 0): name for name, each in questions.items()
            }
            for future in as_completed(asked):
                (reply,) = future.result()
                if reply.error is None and not reply.text.strip():
                    reply = Reply(error="unparseable", message="the answer is blank")
                output = None if reply.error else reply.text
                yield Answer(asked[future], output, error=reply.error, message=reply.message)
                failures = failures + 1 if reply.error else 0
                if failures == stop_after:
                    return
        finally:
            threads.shutdown(cancel_futures=True)


def as_conversation(example: Example) -> Conversation:
    """The prompt as messages: text is what the user says."""
    return [{"role": "user", "content": example.prompt}] if isinstance(example.prompt, str) else example.prompt


def asked_of(examples: Sequence[Example], sampling: Sampling, seed: int) -> dict[str, Any]:
    """What answers depend on, besides who gives them."""
    prompts = digest([[example.id, example.prompt] for example in examples])
    return {"sampling": sampling.model_dump(mode="json"), "seed": seed, "prompts": prompts}


def engine_identity(model: str, engine: Config) -> dict[str, Any]:
    """Who gives an engine's answers; how many it draws at once does not matter."""
    kind = engine.model_dump(mode="json", include={"type", "dtype"})
    return {"model": model, "files": digest(model_files(model)), "engine": kind}


def digest(value: Any) -> str:
    """Equal for equal values; short enough for a message."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
