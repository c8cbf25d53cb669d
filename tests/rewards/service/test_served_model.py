"""A reward model behind the API: requests that share a batch change nothing in each other's scores."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from posttrain.rewards.learned.learned import LearnedReward
from posttrain.rewards.score_item import ScoreItem


def test_scores_do_not_depend_on_what_is_asked_at_the_same_time(start_server: Any, classifier_folder: Path) -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdefgh ", k=rng.randrange(1, 120))) for _ in range(64)]
    reward = LearnedReward(model=str(classifier_folder)).build()
    alone = [reward.score([ScoreItem(prompt="q: ", completion=text).reward_input("0")])[0].score for text in texts]
    reward.close()
    assert len(set(alone)) > 60
    server = start_server({"learned": {"type": "learned", "model": str(classifier_folder)}}, "server.max_wait_ms=20")

    def ask(text: str) -> float:
        reply = server.http.post("/v1/score", json={"items": [{"prompt": "q: ", "completion": text}]})
        score: float = reply.json()["results"][0]["score"]
        return score

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, texts * 3))
    assert together == pytest.approx(alone * 3, abs=1e-4)
    batches = server.metric('posttrain_batch_items_count{reward="learned"}')
    assert batches < 0.6 * len(together)  # they did share batches


def test_what_a_long_prompt_loses_is_told(start_server: Any, classifier_folder: Path) -> None:
    server = start_server({"learned": {"type": "learned", "model": str(classifier_folder), "max_length": 20}})
    items = [
        {"prompt": "a" * 50, "completion": "b"},
        {"prompt": "a", "completion": "b"},
        {"completion": "without prompt"},
    ]
    results = server.http.post("/v1/score", json={"items": items}).json()["results"]
    assert [result["truncated"] for result in results] == [True, False, False]
    assert all(result["error"] is None for result in results)
