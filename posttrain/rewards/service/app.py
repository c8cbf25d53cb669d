"""The routes of the scoring API."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any
from uuid import uuid4

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from pydantic_core import from_json, to_json
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import posttrain
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.rewards.score_item import ScoreItem
from posttrain.rewards.service.batching import QueueFull, ServedReward, estimated_tokens
from posttrain.rewards.service.config import ServerConfig
from posttrain.rewards.service.guard import Guard, error_reply
from posttrain.rewards.service.metrics import Metrics
from posttrain.rewards.service.wire import (
    LONGEST_MESSAGE,
    SCHEMA_VERSION,
    OpenRLHFBody,
    OpenRLHFReply,
    ScoreBody,
    ScoreReply,
    SlimeBody,
    VLLMPoolingBody,
    VLLMReply,
    VLLMScoreBody,
    message_of,
    openrlhf_reply,
    result_of,
)

Activation = Callable[[float], float]
VLLMForm = VLLMScoreBody | VLLMPoolingBody
ModelQuery = Annotated[str | None, Query(description="name of a reward; left out: the server's first")]
ITEMS_ERRORS = ("invalid_input", "unparseable", "not_finite")
PROBLEMS_TOLD = 3


class StrictRequest(Request):
    """JSON as RFC 8259 has it: no NaN, no lone surrogates, UTF-8, at most 200 levels deep."""

    async def json(self) -> Any:
        return from_json(await self.body(), allow_inf_nan=False)


class StrictRoute(APIRoute):
    """A route whose JSON bodies are read by ``StrictRequest``."""

    def get_route_handler(self) -> Any:
        handler = super().get_route_handler()

        async def strict_handler(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return strict_handler


class Scoring:
    """From the items of a request to the outputs of a reward, within the limits."""

    def __init__(self, rewards: Mapping[str, ServedReward], config: ServerConfig) -> None:
        self.rewards = rewards
        self.config = config

    def reward(self, name: str | None) -> ServedReward:
        """Raises: HTTPException 404."""
        if name is None:
            return next(iter(self.rewards.values()))
        if name not in self.rewards:
            raise HTTPException(404, f"no reward of that name; there are: {', '.join(self.rewards)}")
        return self.rewards[name]

    async def outputs(
        self, reward: ServedReward, items: Sequence[ScoreItem], timeout_s: float = math.inf
    ) -> list[RewardOutput]:
        """One output for each item.

        Raises:
            HTTPException: 413 for too many or too long items, 422 for too deep ones, 429 where the queue is full.
        """
        if len(items) > self.config.max_items:
            raise HTTPException(413, f"a request may have {self.config.max_items} items at most")
        inputs = [self._input(index, item) for index, item in enumerate(items)]
        try:
            return await reward.score(inputs, min(timeout_s, self.config.timeout_s))
        except QueueFull as full:
            headers = {"retry-after": str(full.retry_after_s)}
            raise HTTPException(429, "the queue is full; try again later", headers) from None

    async def scored(self, reward: ServedReward, items: Sequence[ScoreItem]) -> list[RewardOutput]:
        """Outputs that all have a score, for wire forms without errors.

        Raises:
            HTTPException: also 422 for an item that cannot be judged, 503 where the server is at fault.
        """
        outputs = await self.outputs(reward, items)
        for index, output in enumerate(outputs):
            if output.error is not None:
                status = 422 if output.error in ITEMS_ERRORS else 503
                raise HTTPException(status, f"item {index}: {output.error}: {message_of(output)}")
        return outputs

    def _input(self, index: int, item: ScoreItem) -> RewardInput:
        if any(_is_deeper(value, self.config.max_nesting) for value in (item.model_extra or {}).values()):
            raise HTTPException(422, f"item {index} is nested more than {self.config.max_nesting} levels deep")
        result = item.reward_input(str(index))
        if estimated_tokens(result) > self.config.max_item_tokens:
            raise HTTPException(413, f"item {index} has more than {self.config.max_item_tokens} tokens")
        return result


def _is_deeper(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and (levels == 0 or any(_is_deeper(inner, levels - 1) for inner in value))


def create_app(
    rewards: Mapping[str, ServedReward], config: ServerConfig, keys: Sequence[str], metrics: Metrics
) -> ASGIApp:
    """The ASGI application that serves ``rewards``, which the caller starts and closes; the first is the default."""
    app = FastAPI(title="posttrain scoring API", version=posttrain.__version__, redoc_url=None)
    app.router.route_class = StrictRoute
    app.router.strict_content_type = False
    app.add_exception_handler(HTTPException, _told)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _internal)
    scoring = Scoring(rewards, config)
    _add_scoring_routes(app, scoring)
    _add_vllm_routes(app, scoring)
    _add_status_routes(app, rewards, metrics)
    routes = [route.path for route in app.routes if isinstance(route, APIRoute)]
    return Guard(app, config, keys, metrics, routes)


def _add_scoring_routes(app: FastAPI, scoring: Scoring) -> None:
    @app.post("/v1/score", response_model=ScoreReply, response_model_exclude_unset=True)
    async def score(body: ScoreBody) -> Response:
        """Score items. Each has a score, or an error of its own."""
        reward = scoring.reward(body.model)
        outputs = await scoring.outputs(reward, body.items, body.timeout_s or math.inf)
        results = [result_of(output, body.token_scores) for output in outputs]
        reply = {"results": results, "model": reward.name, "digest": reward.digest, "schema_version": SCHEMA_VERSION}
        return Response(to_json(reply, inf_nan_mode="null"), media_type="application/json")

    @app.post("/get_reward")
    async def get_reward(body: OpenRLHFBody, model: ModelQuery = None) -> OpenRLHFReply:
        """OpenRLHF's remote reward: ``--remote_rm_url http://.../get_reward``."""
        return openrlhf_reply(await scoring.scored(scoring.reward(model), body.score_items()))

    @app.post("/slime")
    async def slime(body: SlimeBody, model: ModelQuery = None) -> float | None:
        """slime's remote reward: ``--rm-url http://.../slime``."""
        return (await scoring.scored(scoring.reward(model), body.score_items()))[0].score


def _add_vllm_routes(app: FastAPI, scoring: Scoring) -> None:
    async def reply(body: VLLMForm, datum: Callable[[RewardOutput, Activation], dict[str, Any]]) -> VLLMReply:
        reward = scoring.reward(body.model)
        items = body.score_items()
        outputs = await scoring.scored(reward, items)
        # The logistic function, without overflow.
        activation = (lambda score: 0.5 * (1.0 + math.tanh(0.5 * score))) if body.use_activation else float
        data = [{"index": index, **datum(output, activation)} for index, output in enumerate(outputs)]
        tokens = sum(estimated_tokens(item.reward_input("")) for item in items)
        return VLLMReply(
            id=uuid4().hex,
            created=int(time.time()),
            model=reward.name,
            data=data,
            usage=dict.fromkeys(("prompt_tokens_details", "completion_tokens_details"))
            | {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
        )

    @app.post("/score")
    async def vllm_score(body: VLLMScoreBody) -> VLLMReply:
        """vLLM's score API: queries are prompts, documents completions."""
        return await reply(body, lambda output, act: {"object": "score", "score": act(output.score or 0.0)})

    @app.post("/classify")
    async def vllm_classify(body: VLLMPoolingBody) -> VLLMReply:
        """vLLM's classification API; a reward is a model with one class."""
        return await reply(
            body,
            lambda output, act: {"label": "LABEL_0", "probs": [act(output.score or 0.0)], "num_classes": 1},
        )

    @app.post("/pooling")
    async def vllm_pooling(body: VLLMPoolingBody) -> VLLMReply:
        """vLLM's pooling API: a row for each token where the reward scores tokens, else the score of the text."""

        def datum(output: RewardOutput, act: Activation) -> dict[str, Any]:
            score = [act(output.score or 0.0)]
            rows = [[act(value)] for value in output.token_scores] or [score]
            by_token = body.task == "token_classify" or (body.task is None and output.token_scores)
            return {"object": "pooling", "data": rows if by_token else score}

        return await reply(body, datum)


def _add_status_routes(app: FastAPI, rewards: Mapping[str, ServedReward], metrics: Metrics) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The rewards by name, the default one first, in OpenAI's form."""
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "posttrain", "digest": reward.digest}
            for name, reward in rewards.items()
        ]
        return {"object": "list", "data": data}

    @app.get("/health")
    async def health() -> dict[str, str]:
        """The server runs."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """Every reward can score now; else 503."""
        waiting = [name for name, reward in rewards.items() if not reward.is_ready()]
        return JSONResponse({"status": "starting" if waiting else "ready"}, 503 if waiting else 200)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> PlainTextResponse:
        """Prometheus' text form."""
        return PlainTextResponse(generate_latest(metrics.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_reply(error.status_code, error.detail, dict(error.headers or {}))


async def _invalid(request: Request, error: Exception) -> Response:
    """What is wrong and where, without what was sent: it may be long, or not fit into JSON."""
    assert isinstance(error, RequestValidationError)
    problems = [f"{'.'.join(map(str, problem['loc'][1:]))}: {problem['msg']}" for problem in error.errors()]
    message = "; ".join(problem.removeprefix(": ") for problem in problems[:PROBLEMS_TOLD])
    return error_reply(422, message.encode("ascii", "backslashreplace").decode()[:LONGEST_MESSAGE])


async def _internal(request: Request, error: Exception) -> Response:
    return error_reply(500, "internal error; the server's log says what")
