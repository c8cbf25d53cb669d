"""What a job would do: everything resolved and checked, the batch arithmetic, a memory estimate; nothing is trained.

Nothing is written, and no weights are loaded: the model's shape is built on the meta device.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.build import build_reward, is_first_rank
from posttrain.capacity.workload import ModelShape, empty_model, held_models, model_and_tokenizer, shape_of
from posttrain.data.chat import PromptEncoder
from posttrain.errors import JobError
from posttrain.job import Job
from posttrain.rewards.checked import score_checked
from posttrain.rewards.reward import Reward, RewardInput
from posttrain.tasks.attempts import AttemptsTask
from posttrain.tasks.environment import EnvironmentTask
from posttrain.trainers.agent_r_config import NO_ENVIRONMENT, AgentRConfig
from posttrain.trainers.agent_r_record import arithmetic
from posttrain.trainers.oreal_config import OREALConfig
from posttrain.trainers.policy_config import PolicyTrainerConfig
from posttrain.trainers.reward_model_config import RewardModelConfig
from posttrain.trainers.sft_config import SFTConfig
from posttrain.trainers.stragglers import Stragglers
from posttrain.trainers.urpo_config import URPOConfig
from posttrain.training.memory import Launch, deepspeed_estimate, frozen_bytes, trained_bytes
from posttrain.types import Example

WIDTH = 80


@dataclass(slots=True)
class Plan:
    """Sections of (name, value) lines, in the order they are printed, and warnings."""

    sections: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def print_plan(job: Job[Any]) -> None:
    """Print the plan of ``job``, 80 columns wide, on the first rank.

    Raises:
        UserError: what would stop the run.
    """
    plan = make_plan(job, Launch.of_environment())
    print_sections(plan.sections, plan.warnings, "The job is sound. Nothing was trained or written.")


def print_sections(sections: Mapping[str, Sequence[tuple[str, str]]], warnings: Sequence[str], last: str) -> None:
    """Print titles with their (name, value) lines, warnings and a last line, 80 columns wide, on the first rank."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=WIDTH, highlight=False, emoji=False, quiet=not is_first_rank())
    for title, lines in sections.items():
        console.print(f"[bold]{title}[/bold]")
        table = Table.grid(padding=(0, 2))
        table.add_column(min_width=24)
        table.add_column(overflow="fold")
        for name, value in lines:
            table.add_row(f"  {name}", value.replace("[", r"\["))
        console.print(table)
    for warning in warnings:
        console.print(f"[yellow]warning:[/yellow] {warning}")
    console.print(last)


def make_plan(job: Job[Any], launch: Launch) -> Plan:
    """Resolve and check everything that ``job`` names.

    Raises:
        UserError: a data row, the reward or the model cannot be used, or the sizes do not fit each other.
    """
    config, tokenizer = model_and_tokenizer(job)
    model = empty_model(config)
    shape = shape_of(job, config, model)
    plan = Plan({"Model": list(model_lines(job, shape))})
    task = job.data.build()
    train, held_out = task.train_examples(), task.eval_examples()
    encoder = PromptEncoder(tokenizer, prompt_budget(job, shape.context))
    lengths = {"training": prompt_lengths(encoder, train), "held-out": prompt_lengths(encoder, held_out)}
    plan.sections["Data"] = [
        (f"{name} examples", f"{len(values):,}, prompts of {min(values)} to {max(values)} tokens" if values else "none")
        for name, values in lengths.items()
    ]
    supervised = job.warm_start or (job.trainer if isinstance(job.trainer, SFTConfig) else None)
    if supervised is not None:
        shown = job.warm_start_data.build().train_examples() if job.warm_start_data is not None else train
        plan.sections["Data"].append(demonstration_line(supervised, tokenizer, shape.context, shown))
    if isinstance(job.trainer, RewardModelConfig):
        plan.sections["Data"].append(pairs_line(job.trainer, encoder, shape.context, train))
    if isinstance(job.trainer, PolicyTrainerConfig):
        Stragglers.of(job.trainer, train)
        reward = build_reward(job, task)
        if isinstance(task, EnvironmentTask | AttemptsTask):
            task.close()
            plan.sections["Episodes"] = list(episode_lines(task, job.trainer.sampling.max_completion_tokens))
        else:
            plan.sections["Reward on one example"] = list(reward_lines(reward, train[0]))
        plan.sections["Batch"] = list(batch_lines(job, max(lengths["training"]), launch))
        plan.warnings += warnings(job.trainer, len(train))
    if isinstance(job.trainer, URPOConfig):
        plan.warnings += referee_warnings(job.trainer, max(lengths["training"]), shape.context)
    plan.sections["Memory on each rank, estimated"] = list(memory_lines(job, shape, model, launch))
    return plan


def prompt_budget(job: Job[Any], context: int) -> int | None:
    """Most tokens that a prompt may have; None: it is truncated."""
    if isinstance(job.trainer, PolicyTrainerConfig):
        return job.trainer.prompt_budget(context)
    return None if isinstance(job.trainer, RewardModelConfig) else context


def prompt_lengths(encoder: PromptEncoder, examples: Sequence[Example]) -> list[int]:
    """Tokens of every prompt. Raises ``DataError`` for one that cannot be encoded or is too long."""
    return [len(encoder.prompt_ids(example)) for example in examples]


def demonstration_line(config: SFTConfig, tokenizer: Any, context: int, examples: Sequence[Example]) -> tuple[str, str]:
    """What supervised fine-tuning, alone or as a warm start, learns from.

    Raises:
        DataError: an example has no demonstration, or one that is too long.
    """
    from posttrain.trainers.sft import demonstration_rows

    rows = demonstration_rows(examples, tokenizer, config.max_length or context, config.only_demonstrated)
    lengths = [len(row["input_ids"]) for row in rows]
    rounds = config.steps * config.batch_size / len(rows)
    return "demonstrations", (
        f"{len(rows):,}, with their prompts {min(lengths)} to {max(lengths)} tokens; "
        f"{config.steps} steps of {config.batch_size} see each {rounds:.3g} times"
    )


def pairs_line(
    config: RewardModelConfig, encoder: PromptEncoder, context: int, examples: Sequence[Example]
) -> tuple[str, str]:
    """What a reward model learns from.

    Raises:
        DataError: an example has no ranked candidates.
    """
    from posttrain.trainers.preference_rows import preference_pairs

    pairs = preference_pairs(examples, encoder, config.max_length or context)
    return "pairs", (
        f"{len(pairs.rows):,}, of which {pairs.truncated:,} lose the beginning of their prompt; {pairs.left_out:,} are "
        f"too long; {config.steps} steps of {config.batch_size} see each "
        f"{config.steps * config.batch_size / max(1, len(pairs.rows)):.3g} times"
    )


def model_lines(job: Job[Any], shape: ModelShape) -> Iterator[tuple[str, str]]:
    yield "policy", f"{shape.name}, {job.model.dtype}, context {shape.context:,} tokens"
    adapter = "" if job.model.lora is None else f" (LoRA of rank {job.model.lora.rank})"
    yield "parameters", f"{shape.parameters:,}, of which {shape.trained:,} are trained{adapter}"


def reward_lines(reward: Reward, example: Example) -> Iterator[tuple[str, str]]:
    """The reward of an example's own demonstration or answer, in place of a completion.

    Raises:
        RewardFailure: the reward breaks its contract.
    """
    source = next((name for name in ("demonstration", "answer") if getattr(example, name)), None)
    text = getattr(example, source) if source else ""
    completion = text if isinstance(text, str) else text[0]
    try:
        (output,) = score_checked(reward, [RewardInput(example, completion)])
    finally:
        reward.close()
    yield "example", example.id
    yield "completion", f"its {source}: {completion!r}" if source else "empty: it has no demonstration and no answer"
    yield "score", f"none: {output.error}: {output.message}" if output.score is None else f"{output.score:g}"
    for name, part in output.parts.items():
        yield f"  {name}", f"{part:g}"


def episode_lines(task: EnvironmentTask | AttemptsTask, max_completion_tokens: int) -> Iterator[tuple[str, str]]:
    """What an episode may take."""
    turn = task.max_turn_tokens
    if isinstance(task, AttemptsTask):
        yield "environment", f"{task.task.type}, {task.attempts} attempts"
    else:
        yield "environment", f"{task.environment.type}: {task.workers} processes, {task.deadline_s:g} s for a step"
    yield "tokens of an episode", f"at most {max_completion_tokens:,}, with the observations"
    yield "tokens of a turn", f"at most {turn:,}; {max_completion_tokens // turn:,} such turns fill an episode"


def batch_lines(job: Job[Any], longest_prompt: int, launch: Launch) -> Iterator[tuple[str, str]]:
    """The batch arithmetic of a step.

    Raises:
        JobError: some rank would have no prompt, or the method searches an environment and there is none.
    """
    config = job.trainer
    prompts, group, ranks = config.prompts_per_step, config.rollouts_per_prompt, launch.ranks
    if prompts < ranks:
        raise JobError(
            f"trainer.prompts_per_step ({prompts}) is less than the {ranks} ranks, and some would have no prompt: "
            f"take at least {ranks} prompts, or at most {prompts} ranks"
        )
    if isinstance(config, AgentRConfig):
        match job.data:
            case AttemptsTask():
                most_steps = job.data.attempts
            case EnvironmentTask():
                most_steps = getattr(job.data.environment, "max_steps", config.search.max_depth)
            case _:
                raise JobError(NO_ENVIRONMENT)
        yield from arithmetic(config, most_steps, job.data.max_turn_tokens, ranks)
        return
    most = math.ceil(prompts / ranks)
    tokens = most * group * (longest_prompt + config.sampling.max_completion_tokens)
    yield "ranks", f"{ranks}"
    yield "rollouts per step", f"{prompts} prompts x {group} rollouts = {prompts * group:,}"
    yield "on each rank", f"{most} prompts, {most * group:,} rollouts, at most {tokens:,} tokens"
    yield (
        "micro-batches",
        f"at most {math.ceil(tokens / config.tokens_per_micro_batch)} of about "
        + (f"{config.tokens_per_micro_batch:,} tokens on each rank, if every completion fills its budget"),
    )
    updates = config.updates_per_step * config.minibatches_per_step
    yield "optimizer updates", f"{config.steps} steps x {updates} = {config.steps * updates:,}"
    yield "rollouts in all", f"{config.steps * prompts * group:,}"
    if isinstance(config, OREALConfig):
        yield from oreal_batch_lines(config)


def oreal_batch_lines(config: OREALConfig) -> Iterator[tuple[str, str]]:
    """How many prompts are expected to have both a right and a wrong rollout: 1 - p^K - (1 - p)^K of them."""
    group = config.rollouts_per_prompt
    shares = {rate: 1 - rate**group - (1 - rate) ** group for rate in (0.05, 0.2, 0.5, 0.8, 0.95)}
    text = ", ".join(f"{share * config.prompts_per_step:.1f} at {rate:.0%}" for rate, share in shares.items())
    yield "prompts with a pair", f"{text} pass rate"
    yield "frozen policy", f"the first {config.frozen_steps} steps, while the token reward model learns alone"


def memory_lines(job: Job[Any], shape: ModelShape, model: Any, launch: Launch) -> Iterator[tuple[str, str]]:
    """Resident bytes of every model, and the bounds of what comes and goes."""
    dtype = job.model.dtype
    sizes = {name: trained_bytes(*size, dtype, launch) for name, size in held_models(job, shape, model).items()}
    if isinstance(job.trainer, PolicyTrainerConfig):
        engine = job.engine
        sizes["engine's weights"] = frozen_bytes(shape.parameters, getattr(engine, "dtype", dtype))
        if hasattr(engine, "max_num_tokens"):
            sizes["engine's cache, at most"] = float(engine.max_num_tokens * shape.cache_bytes_per_token)
        elif hasattr(engine, "kv_cache_gib"):
            sizes["engine's cache (on a CPU)"] = engine.kv_cache_gib * 2.0**30
        sizes["a chunk of logits"] = 2 * 4.0 * job.model.logits_chunk_size * model.config.vocab_size
    for name, size in sizes.items():
        yield name, human_bytes(size)
    yield "sum, before activations", human_bytes(sum(sizes.values()))
    if launch.zero_stage is not None:
        cpu, gpu = deepspeed_estimate(shape.parameters, shape.largest_layer, launch)
        yield (
            "DeepSpeed's estimate",
            f"ZeRO-{launch.zero_stage}, policy only: {human_bytes(gpu)} a rank, {human_bytes(cpu)} of CPU a node",
        )


def warnings(config: PolicyTrainerConfig, examples: int) -> list[str]:
    """Settings that are allowed and rarely meant."""
    found = []
    if config.prompts_per_step > examples:
        found.append(f"a step samples {config.prompts_per_step} prompts and there are {examples}: some come twice")
    if isinstance(config, OREALConfig):
        if config.kl_coef and config.kl_reference == "old":
            found.append("trainer.kl_reference: old has no gradient on the first update of a step; initial has")
        if config.frozen_steps >= config.steps:
            found.append(
                f"the policy is frozen for {config.frozen_steps} steps and there are {config.steps}: it never learns"
            )
        if config.token_weighting != "none" and config.frozen_steps == 0:
            found.append(
                "trainer.policy_freeze_steps: 0 starts the policy on a token reward model whose head is still zero"
            )
    return found


def referee_warnings(config: URPOConfig, longest_prompt: int, context: int) -> list[str]:
    """Whether the longest answers of an open group fit in one question."""
    answers = min(config.referee_max_candidates, config.rollouts_per_prompt)
    length = min(config.referee_candidate_tokens, config.sampling.max_completion_tokens)
    needed = longest_prompt + answers * length + config.referee_max_completion_tokens
    if not config.task_mix.open or config.open_reward == "separate" or needed <= context:
        return []
    return [
        f"a referee's question with {answers} answers of {length:,} tokens and its reply need {needed:,} tokens, the "
        f"context has {context:,}: long groups are dealt to several questions; lower trainer.referee_candidate_tokens"
    ]


def human_bytes(size: float) -> str:
    """``size`` in the unit that gives it at most four digits, powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"
