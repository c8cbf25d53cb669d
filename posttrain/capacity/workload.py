"""What a job holds and does in a step, in numbers, before any hardware is chosen."""

from dataclasses import dataclass
from typing import Any

from posttrain.capacity.memory import activation_bytes
from posttrain.errors import JobError
from posttrain.job import Job
from posttrain.trainers.agent_r_config import AgentRConfig
from posttrain.trainers.oreal_config import OREALConfig
from posttrain.trainers.policy_config import PolicyTrainerConfig
from posttrain.training.memory import bytes_of, lora_parameters

POLICY = "policy and optimizer"


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of the policy. ``cache_bytes_per_token`` is the key-value cache's, in the engine's dtype."""

    name: str
    parameters: int
    trained: int
    largest_layer: int
    context: int
    cache_bytes_per_token: int


@dataclass(frozen=True, slots=True)
class Workload:
    """A step of a job. ``models``: name -> (parameters, of which trained), the policy first; ``model``: its config.
    Bytes are those of a token. The two lengths are means; ``longest`` is the context a rollout may fill."""

    job: Job[Any]
    model: Any
    models: dict[str, tuple[int, int]]
    cache_bytes: int
    activation_bytes: float
    prompt_tokens: float
    completion_tokens: float
    longest: int

    @property
    def parameters(self) -> int:
        """Of the policy, P."""
        return self.models[POLICY][0]

    @property
    def rollouts(self) -> int:
        """Of a step."""
        return int(self.job.trainer.prompts_per_step * self.job.trainer.rollouts_per_prompt)

    @property
    def tokens(self) -> float:
        """Of all rollouts of a step, prompts included."""
        return self.rollouts * (self.prompt_tokens + self.completion_tokens)

    def micro_batches(self, ranks: int) -> float:
        """Of one pass over these tokens on each rank, at least one."""
        return max(1.0, self.tokens / ranks / self.job.trainer.tokens_per_micro_batch)

    def share(self, engines: float) -> float:
        """Rollouts of one of so many engines, at least one."""
        return max(1.0, self.rollouts / engines)

    @property
    def engine_weights(self) -> float:
        """Bytes of the engine's whole copy of the policy."""
        return float(self.parameters * bytes_of(getattr(self.job.engine, "dtype", self.job.model.dtype)))

    @property
    def update_operations(self) -> float:
        """A token's: for each trained model 2 P forward, 2 P for the gradients of activations, 2 P for those of the
        weights if more than an adapter is trained, 2 P for the recomputation of checkpointing."""
        again = 2 * self.job.model.gradient_checkpointing
        trained = [trained for _, trained in self.models.values() if trained]
        return float(sum(4 + 2 * (count == self.parameters) + again for count in trained) * self.parameters)


def workload_of(job: Job[Any], prompts: tuple[float, int], completion_tokens: float | None) -> Workload:
    """The workload of ``job``, with ``prompts`` of this mean and greatest length; completions fill their budget where
    ``completion_tokens`` is None.

    Raises:
        JobError: the job does not sample rollouts of single prompts, or there is no such model.
    """
    if not isinstance(job.trainer, PolicyTrainerConfig) or isinstance(job.trainer, AgentRConfig):
        raise JobError(
            f"method: plan reckons with rollouts of prompts, and {job.method} samples otherwise or not at all; "
            "posttrain train --dry-run prints the memory of this job"
        )
    config, _ = model_and_tokenizer(job)
    model = empty_model(config, job.model.dtype)
    shape, budget = shape_of(job, config, model), job.trainer.sampling.max_completion_tokens
    return Workload(
        job=job,
        model=config,
        models=held_models(job, shape, model),
        cache_bytes=shape.cache_bytes_per_token,
        activation_bytes=activation_bytes(model, job.model.gradient_checkpointing),
        prompt_tokens=prompts[0],
        completion_tokens=min(budget, completion_tokens or budget),
        longest=prompts[1] + budget,
    )


def model_and_tokenizer(job: Job[Any]) -> tuple[Any, Any]:
    """The transformers config and tokenizer of the policy, without weights.

    Raises:
        JobError: there is no such model.
    """
    if job.model.tiny is not None:
        from posttrain.data.tiny_model import create_tokenizer, qwen2_config

        tokenizer = create_tokenizer(job.model.tiny)
        return qwen2_config(job.model.tiny, tokenizer), tokenizer
    from transformers import AutoConfig, AutoTokenizer

    path, revision = job.model.path, job.model.revision
    try:
        config = AutoConfig.from_pretrained(path, revision=revision)
        return config, AutoTokenizer.from_pretrained(path, revision=revision)
    except (OSError, ValueError) as error:
        raise JobError(f"model.path: cannot load {path!r}: {error}") from error


def empty_model(config: Any, dtype: str = "float32") -> Any:
    """The model's modules with shapes and no storage."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))


def shape_of(job: Job[Any], config: Any, model: Any) -> ModelShape:
    """Sizes of the policy, counted on ``model``."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    lora = job.model.lora
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = bytes_of(getattr(job.engine, "dtype", job.model.dtype))
    return ModelShape(
        name=config.model_type if job.model.tiny is not None else str(job.model.path),
        parameters=parameters,
        trained=parameters if lora is None else lora_parameters(model, lora.rank),
        largest_layer=max(sum(p.numel() for p in module.parameters(recurse=False)) for module in model.modules()),
        context=config.max_position_embeddings,
        cache_bytes_per_token=2 * config.num_hidden_layers * heads * head_dim * width,
    )


def held_models(job: Job[Any], shape: ModelShape, model: Any) -> dict[str, tuple[int, int]]:
    """Every model that the trainer holds: name -> (parameters, of which trained). A LoRA policy's base is its own
    reference; OREAL's token reward model is a whole one, or an adapter on the reference's backbone."""
    held = {POLICY: (shape.parameters, shape.trained)}
    trainer = job.trainer
    if (getattr(trainer, "kl_coef", 0) or getattr(trainer, "chi2_coef", 0)) and job.model.lora is None:
        held["reference model"] = (shape.parameters, 0)
    if isinstance(trainer, OREALConfig) and trainer.token_weighting != "none":
        separate = trainer.token_reward_model.sharing == "separate"
        learns = shape.parameters if separate else lora_parameters(model, trainer.token_reward_model.lora_rank)
        backbone = 0 if separate or trainer.kl_coef else shape.parameters
        held["token reward model"] = (backbone + learns, learns)
    return held
