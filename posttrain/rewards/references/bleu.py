"""Sentence BLEU as a reward: BLEUBERI's variant (arXiv 2505.11080), or sacrebleu's."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from posttrain.rewards.composition import parts_under
from posttrain.rewards.references.bleu_score import Bleu, Matches, SmoothMethod, evaluate_bleu, sacrebleu_bleu
from posttrain.rewards.references.bleu_tokenizer import TokenizerName, load_tokenizer
from posttrain.rewards.references.reference import Judge, ReferenceRewardConfig, rouge_l_judge, tokenized
from posttrain.rewards.reward import RewardOutput


class BleuKeys(ReferenceRewardConfig):
    """Which BLEU. The defaults are what BLEUBERI's release calls."""

    variant: Literal["evaluate_smooth", "evaluate_plain", "sacrebleu"] = Field(
        default="evaluate_smooth", description="the evaluate package's, add-one at every order or not; or sacrebleu's"
    )
    tokenize: TokenizerName = Field(default="13a", description="char or zh for text without spaces between words")
    lowercase: bool = False
    smooth_method: SmoothMethod = Field(default="exp", description="of sacrebleu, at orders without a match")
    smooth_value: float | None = Field(
        default=None, gt=0, description="of sacrebleu's floor (null: 0.1, at most 1) and add-k (null: 1)"
    )
    effective_order: bool = Field(default=True, description="of sacrebleu: skip orders longer than the completion")
    brevity_penalty: bool | Literal["only"] = Field(
        default=True, description="false: the precisions alone; only: the brevity penalty alone"
    )

    @model_validator(mode="after")
    def _smoothing_is_used(self) -> "BleuKeys":
        keys = ("smooth_method", "smooth_value", "effective_order")
        changed = [key for key in keys if getattr(self, key) != type(self).model_fields[key].default]
        if changed and self.variant != "sacrebleu":
            raise ValueError(f"{', '.join(changed)} belong to variant: sacrebleu, and variant is {self.variant}")
        if self.smooth_value is not None and self.smooth_method not in ("floor", "add-k"):
            raise ValueError(f"smooth_value belongs to floor and add-k, and smooth_method is {self.smooth_method}")
        if self.smooth_method == "floor" and (self.smooth_value or 0.0) > 1:
            raise ValueError(f"smooth_value of floor must be at most 1; with {self.smooth_value} no match beats one")
        return self

    def prepare(self, references: Sequence[str]) -> Judge:
        from posttrain.rewards.references.ngram_matches import count_references, match

        split = load_tokenizer(self.tokenize)

        def tokens(text: str) -> list[str]:
            text = text.lower() if self.lowercase else text
            # sacrebleu strips the end of a line before 13a joins words hyphenated across lines; evaluate does not.
            return split(text.rstrip() if self.variant == "sacrebleu" else text)

        counts = count_references(tokenized(references, tokens))
        return lambda texts: [self._output(self._bleu(found)) for found in match([*map(tokens, texts)], counts)]

    def _bleu(self, matches: Matches) -> Bleu:
        if self.variant == "sacrebleu":
            return sacrebleu_bleu(matches, self.smooth_method, self.smooth_value, self.effective_order)
        return evaluate_bleu(matches, smooth=self.variant == "evaluate_smooth")

    def _output(self, bleu: Bleu) -> RewardOutput:
        parts = {f"precision_{order}": value for order, value in enumerate(bleu.precisions, start=1)}
        parts |= {"brevity_penalty": bleu.brevity_penalty, "length_ratio": bleu.length_ratio}
        if self.brevity_penalty == "only":
            return RewardOutput(bleu.brevity_penalty, parts)
        return RewardOutput(bleu.score if self.brevity_penalty else bleu.mean_precision, parts)


class BleuConfig(BleuKeys):
    """Sentence BLEU, 0 to 1, against all references of an example at once. The parts are ``precision_1`` to
    ``precision_4`` (smoothed as in the score), ``brevity_penalty`` and ``length_ratio`` (see ``Bleu``)."""

    type: Literal["bleu"] = "bleu"


class BleuRougeConfig(BleuKeys):
    """Harmonic mean of BLEU and ROUGE-L, one of BLEUBERI's other rewards; both are parts, each above its own."""

    type: Literal["bleu_rouge"] = "bleu_rouge"

    def prepare(self, references: Sequence[str]) -> Judge:
        bleu, rouge_l = super().prepare(references), rouge_l_judge(references)
        return lambda completions: [*map(_harmonic_mean, bleu(completions), rouge_l(completions))]


def _harmonic_mean(bleu: RewardOutput, rouge_l: RewardOutput) -> RewardOutput:
    b, r = bleu.score or 0.0, rouge_l.score or 0.0
    parts = parts_under("bleu", bleu) | parts_under("rouge_l", rouge_l)
    return RewardOutput(2 * b * r / (b + r) if b + r else 0.0, parts)
