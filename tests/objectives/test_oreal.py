"""OREAL's formulas against numbers computed by hand, in float64."""

import math

import pytest
import torch
from torch import Tensor

from posttrain.objectives.advantages import leave_one_out
from posttrain.objectives.oreal import (
    LossNormalizer,
    OREALCounts,
    OREALTerms,
    negative_shaping,
    oreal_loss,
    outcome_bce,
    outcome_token_weights,
    positive_shaping,
)


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def assert_equal(actual: Tensor, *expected: float) -> None:
    torch.testing.assert_close(actual, float64(*expected), rtol=0, atol=1e-9)


SCORES_CORRECT = float64(0.2, -0.4, 1.0, 2.0)
SCORES_WRONG = float64(0.3, -0.9, -1.8)
LOGPROBS = float64(-0.5, -1.2, -0.1, -0.7, -0.3, -2.0, -0.8)
REFERENCE = float64(-0.6, -1.0, -0.1, -0.9, -0.4, -1.5, -0.8)
IS_POSITIVE = torch.tensor([True] * 4 + [False] * 3)
SAMPLE = torch.tensor([0] * 4 + [1] * 3)
COUNTS = OREALCounts(positive=4, negative=3, total=7)
REWARDS = float64(*[1.0] * 4, *[-1.0] * 12)
ADVANTAGES = leave_one_out(REWARDS)


class TestTokenWeights:
    def test_prefix_mean(self) -> None:
        weights = outcome_token_weights(SCORES_CORRECT, positive=True)
        assert_equal(weights, 0.0996679946, 0, 0.1325487884, 0.3363755443)
        assert_equal(outcome_token_weights(SCORES_WRONG, positive=False), 0, 0.1488850336, 0.3799489623)

    def test_the_score_of_the_token_itself(self) -> None:
        weights = outcome_token_weights(SCORES_CORRECT, positive=True, source="token")
        assert_equal(weights, 0.0996679946, 0, 0.4621171573, 0.7615941560)
        weights = outcome_token_weights(SCORES_WRONG, positive=False, source="token")
        assert_equal(weights, 0, 0.4218990053, 0.7162978702)

    def test_another_threshold(self) -> None:
        assert_equal(outcome_token_weights(SCORES_CORRECT, positive=True, threshold=0.6), 0, 0, 0, 0.1704694304)

    def test_top_k(self) -> None:
        assert_equal(outcome_token_weights(SCORES_CORRECT, positive=True, weighting="top_k"), 0, 0, 0, 1)
        weights = outcome_token_weights(SCORES_CORRECT, positive=True, weighting="top_k", top_k_ratio=1.0)
        q = [1 / (1 + math.exp(-c)) for c in (0.2, -0.1, 0.8 / 3, 0.7)]
        assert_equal(weights, *[(value - min(q)) / (max(q) - min(q)) for value in q])
        assert_equal(outcome_token_weights(SCORES_WRONG, positive=False, weighting="top_k"), 0, 0, 1)

    def test_top_k_of_equal_scores_keeps_the_earliest_at_one(self) -> None:
        weights = outcome_token_weights(torch.zeros(5, dtype=torch.float64), positive=True, weighting="top_k")
        assert_equal(weights, 1, 1, 0, 0, 0)

    def test_no_weighting_and_no_tokens(self) -> None:
        assert_equal(outcome_token_weights(SCORES_WRONG, positive=False, weighting="none"), 1, 1, 1)
        for weighting in ("threshold", "top_k", "none"):
            assert outcome_token_weights(float64(), positive=True, weighting=weighting).shape == (0,)


def shaped_weights(case: str) -> tuple[Tensor, float]:
    """Weights of the four correct and three wrong tokens, and the coefficient of the negatives."""
    if case == "b":
        up, down, negative_coef, source = "unit", "one_minus_p", 1.0, "token"
    else:
        up, down, negative_coef, source = "rloo", "rloo", 0.5, "prefix_mean"
    weighting = "none" if case == "c" else "threshold"
    zero_head = 0.0 if case == "d" else 1.0
    omega = [
        outcome_token_weights(scores * zero_head, positive=positive, source=source, weighting=weighting)
        for scores, positive in ((SCORES_CORRECT, True), (SCORES_WRONG, False))
    ]
    positive_factor = positive_shaping(ADVANTAGES, up)[0]
    negative_factor = negative_shaping(ADVANTAGES, REWARDS, 0.25, down)[-1]
    return torch.cat([positive_factor * omega[0], negative_factor * omega[1]]), negative_coef


class TestPolicyLoss:
    @pytest.mark.parametrize(
        ("case", "terms", "gradient"),
        [
            (
                "a",
                (0.1194207029, 0.0470074663, 0.0002836137, 0.1667117829),
                (-0.0397312513, -0.0003162897, -0.0530195154, -0.1342912617, 0.0001359465, 0.0123074805, 0.0337732411),
            ),
            (
                "b",
                (0.1572904056, 0.2845492189, 0.0002836137, 0.4421232382),
                (-0.0247810521, -0.0003162897, -0.1155292893, -0.1901395829, 0.0001359465, 0.1045480066, 0.1790744675),
            ),
            (
                "c",
                (1.0, 0.2666666667, 0.0002836137, 1.2669502804),
                (-0.3998640535, -0.4003162897, -0.4, -0.3997410439, 0.0890248354, 0.0879621442, 0.0888888889),
            ),
            (
                "d",
                (0.0, 0.0, 0.0002836137, 0.0002836137),
                (0.0001359465, -0.0003162897, 0.0, 0.0002589561, 0.0001359465, -0.0009267447, 0.0),
            ),
        ],
    )
    @pytest.mark.parametrize("objective", ["clone", "policy_gradient"])
    def test_terms_and_gradients(
        self, case: str, terms: tuple[float, ...], gradient: tuple[float, ...], objective: str
    ) -> None:
        weights, negative_coef = shaped_weights(case)
        logprobs = LOGPROBS.clone().requires_grad_()
        loss = oreal_loss(
            logprobs,
            weights,
            IS_POSITIVE,
            REFERENCE,
            COUNTS,
            negative_coef=negative_coef,
            positive_objective=objective,
        )
        if objective == "clone":
            values = torch.stack([loss.positive, loss.negative, loss.kl, loss.total]).detach()
            assert_equal(values, *terms)
        else:
            assert loss.positive.item() == pytest.approx(-weights[IS_POSITIVE].sum().item() / 4, abs=1e-12)
        assert_equal(torch.autograd.grad(loss.total, logprobs)[0], *gradient)

    def test_kl_per_token(self) -> None:
        expected = [0.0048374180, 0.0214027582, 0, 0.0187307531, 0.0048374180, 0.1487212707, 0]
        for token, value in enumerate(expected):
            one = slice(token, token + 1)
            counts = OREALCounts(positive=1, negative=1, total=1)
            loss = oreal_loss(LOGPROBS[one], torch.zeros(1), IS_POSITIVE[one], REFERENCE[one], counts, kl_coef=1.0)
            assert loss.kl.item() == pytest.approx(value, abs=1e-9)

    def test_normalizers(self) -> None:
        def counts(normalizer: LossNormalizer) -> OREALCounts:
            return OREALCounts.of(
                normalizer, positive_tokens=40, negative_tokens=30, positive_rollouts=4, negative_rollouts=3
            )

        assert counts("class_tokens") == OREALCounts(positive=40, negative=30, total=70)
        assert counts("rollouts") == OREALCounts(positive=4, negative=3, total=7)
        assert counts("all_tokens") == OREALCounts(positive=70, negative=70, total=70)


class TestShaping:
    def test_z_score_and_constants(self) -> None:
        rewards = float64(1, -1, -1, -1)
        advantages = leave_one_out(rewards)
        assert_equal(negative_shaping(advantages, rewards, 0.25, "grpo")[1:], *[0.4999999950] * 3)
        assert_equal(negative_shaping(advantages, rewards, 0.25, "one_minus_p"), *[0.75] * 4)
        assert_equal(negative_shaping(advantages, rewards, 0.25, "unit"), *[1.0] * 4)
        assert_equal(negative_shaping(advantages, rewards, 0.25, "rloo"), 2.0, *[2 / 3] * 3)
        assert_equal(positive_shaping(advantages, "unit"), *[1.0] * 4)
        assert_equal(positive_shaping(advantages, "rloo")[:1], 2.0)


class TestOutcomeLoss:
    LABELS = torch.tensor([1.0, 0.0])

    def test_mean_of_logits_then_one_cross_entropy(self) -> None:
        scores = torch.cat([SCORES_CORRECT, SCORES_WRONG]).requires_grad_()
        loss = outcome_bce(scores, SAMPLE, self.LABELS, n_sequences=2)
        assert loss.item() == pytest.approx(0.3871433574, abs=1e-9)
        assert_equal(torch.autograd.grad(loss, scores)[0], *[-0.0414765285] * 4, *[0.0516709198] * 3)

    def test_weights_of_rollouts_of_which_one_has_no_tokens(self) -> None:
        scores, index, labels = float64(0.3, -0.2, 0.5), torch.tensor([0, 2, 2]), torch.tensor([1.0, 0.0, 0.0])
        loss = outcome_bce(scores, index, labels, n_sequences=1, sample_weights=torch.tensor([0.5, 9.0, 2.0]))
        expected = 0.5 * math.log1p(math.exp(-0.3)) + 2.0 * math.log1p(math.exp(0.15))
        assert loss.item() == pytest.approx(expected, abs=1e-12)

    def test_it_is_not_one_of_its_misreadings(self) -> None:
        """The mean of sigmoids, and a cross-entropy per token, are other losses that also train."""
        rollouts = [(SCORES_CORRECT, 1.0), (SCORES_WRONG, 0.0)]
        per_rollout = [torch.sigmoid(s).mean() if y else 1 - torch.sigmoid(s).mean() for s, y in rollouts]
        assert -torch.stack(per_rollout).log().mean().item() == pytest.approx(0.4266279299, abs=1e-9)
        per_token = [torch.sigmoid(s if y else -s).log().mean() for s, y in rollouts]
        assert -torch.stack(per_token).mean().item() == pytest.approx(0.4686657658, abs=1e-9)

    def test_first_step_from_a_zero_head(self) -> None:
        hidden = float64(1, 0, 0, 1, 1, 1, 2, -1, 1, 0, 0, 1, -1, 3).reshape(7, 2).requires_grad_()
        head = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        loss = outcome_bce(hidden @ head, SAMPLE, self.LABELS, n_sequences=2)
        assert loss.item() == pytest.approx(math.log(2), abs=1e-12)
        backbone, gradient = torch.autograd.grad(loss, (hidden, head))
        assert not backbone.any(), "the first step moves the head only"
        assert_equal(gradient, -0.25, 0.2708333333)

        stepped = (head - 0.5 * gradient).detach()
        assert_equal(stepped, 0.125, -0.1354166667)
        scores = (hidden @ stepped).detach()
        assert_equal(scores, 0.125, -0.1354166667, -0.0104166667, 0.3854166667, 0.125, -0.1354166667, -0.53125)
        assert_equal(outcome_token_weights(scores[:4], positive=True), 0.0624187467, 0, 0, 0.0455413929)
        assert_equal(outcome_token_weights(scores[4:], positive=False), 0, 0.0026041608, 0.0900333177)


class TestEqualsRLOO:
    """Two positions, five tokens; four rollouts, all kept, no token weights, no KL."""

    LOGITS = float64(0.3, -0.1, 0.2, 0, -0.4, 0.1, 0.5, -0.2, 0.3, -0.3).reshape(2, 5)
    ROLLOUTS = torch.tensor([[0, 1], [2, 3], [4, 4], [1, 0]])
    REWARDS = float64(1, -1, -1, 1)

    def gradient(self, normalizer: LossNormalizer, negative_coef: float) -> tuple[OREALTerms, Tensor]:
        logits = self.LOGITS.clone().requires_grad_()
        logprobs = torch.log_softmax(logits, dim=1)[torch.arange(2), self.ROLLOUTS]
        advantages = leave_one_out(self.REWARDS)
        correct = self.REWARDS > 0
        down = negative_shaping(advantages, self.REWARDS, 0.5, "rloo")
        weights = torch.where(correct, positive_shaping(advantages, "rloo"), down)
        counts = OREALCounts.of(
            normalizer, positive_tokens=4, negative_tokens=4, positive_rollouts=2, negative_rollouts=2
        )
        flat = (logprobs.flatten(), weights.repeat_interleave(2), correct.repeat_interleave(2))
        loss = oreal_loss(*flat, None, counts, negative_coef=negative_coef)
        return loss, torch.autograd.grad(loss.total, logits)[0]

    def test_over_all_tokens_it_is_the_rloo_gradient(self) -> None:
        _, gradient = self.gradient("all_tokens", negative_coef=1.0)
        sixth = 1 / 6
        assert_equal(gradient[0], -sixth, -sixth, sixth, 0, sixth)
        assert_equal(gradient[1], -sixth, -sixth, 0, sixth, sixth)

        logits = self.LOGITS.clone().requires_grad_()
        logprobs = torch.log_softmax(logits, dim=1)[torch.arange(2), self.ROLLOUTS]
        policy_gradient = -(leave_one_out(self.REWARDS)[:, None] * logprobs).sum() / 8
        torch.testing.assert_close(gradient, torch.autograd.grad(policy_gradient, logits)[0], rtol=0, atol=1e-12)

    def test_released_normaliser_and_coefficient(self) -> None:
        loss, gradient = self.gradient("class_tokens", negative_coef=0.5)
        assert loss.total.item() == pytest.approx(2.6482052631, abs=1e-9)
        assert_equal(gradient[0], -0.2459030380, -0.2747270537, 0.2457768694, 0.0647699558, 0.2100832665)
        assert_equal(gradient[1], -0.2682846324, -0.2362920747, 0.0481892629, 0.2461173294, 0.2102701149)
