import pytest

from posttrain.training.schedule import learning_rate

OREAL = {"peak": 5e-7, "minimum": 1e-7, "warmup_steps": 10, "total_steps": 90, "schedule": "cosine"}


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 5e-8), (4, 2.5e-7), (9, 5e-7), (10, 5e-7), (50, 3e-7), (89, 1.00154e-7)]
)
def test_released_oreal_schedule(step: int, expected: float) -> None:
    assert learning_rate(step, **OREAL) == pytest.approx(expected, abs=1e-11)


def test_linear_falls_to_the_minimum_after_the_last_step() -> None:
    settings = {"peak": 1.0, "minimum": 0.2, "warmup_steps": 0, "total_steps": 4, "schedule": "linear"}
    assert [learning_rate(step, **settings) for step in range(5)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_constant_ignores_the_minimum() -> None:
    settings = {"peak": 1e-6, "minimum": 1e-9, "warmup_steps": 2, "total_steps": 100, "schedule": "constant"}
    assert [learning_rate(step, **settings) for step in (0, 1, 2, 99)] == pytest.approx([5e-7, 1e-6, 1e-6, 1e-6])
