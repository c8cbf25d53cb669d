"""Settings of reward-model training."""

from pydantic import Field

from posttrain.config import Config
from posttrain.trainers.trl_config import TRLMethodConfig


class ContrastiveConfig(Config):
    """The goal-conditioned term of arXiv 2407.13887, lambda * L_C beside Bradley-Terry."""

    coefficient: float = Field(default=0.5, ge=0, description="lambda; 0 is plain Bradley-Terry, to the bit")
    temperature: float = Field(default=1.0, gt=0, description="tau, which divides the cosines")
    samples: int = Field(default=1, ge=1, description="draws of (state, later state, dispreferred state) a pair")


class RewardModelConfig(TRLMethodConfig):
    """Bradley-Terry through TRL's RewardTrainer; a row is a pair. Margins come with the data."""

    learning_rate: float = Field(default=1e-4, gt=0)
    max_length: int | None = Field(
        default=None,
        ge=2,
        description="tokens of prompt and completion; null: the model's context. Longer prompts lose their beginning, "
        "pairs with longer completions are left out; both are counted",
    )
    centring: float = Field(default=0.0, ge=0, description="coefficient of (r_w + r_l)^2; 0.01 is usual")
    contrastive: ContrastiveConfig | None = Field(default=None, description="null: plain Bradley-Terry")
    goal_key: str | None = Field(
        default=None, description="a metadata column: one goal state for each of its values, beside that of all rows"
    )
    goal_examples: int = Field(default=2048, ge=1, description="training pairs that the goal states are a mean over")
