"""Tiny models from a config: a Qwen2 of a few million parameters in an ordinary Hugging Face folder, with no download.

The folder (weights, fast tokenizer, chat template, generation config) is one that transformers, vLLM and TRL load.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from posttrain.config import Config
from posttrain.errors import JobError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen2Config

PAD_TOKEN = "<|pad|>"
END_TOKEN = "<|end|>"
ROLES = ("system", "user", "assistant")
SPECIAL_TOKENS = (PAD_TOKEN, END_TOKEN, *(f"<|{role}|>" for role in ROLES))

# A turn costs two tokens, `<|role|>` and `<|end|>`, because prompts of a tiny model are short. The generation block
# marks what an assistant-only loss trains on.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{- raise_exception('unknown role ' ~ message['role']) -}}"
    "{%- endif -%}"
    "{{- '<|' ~ message['role'] ~ '|>' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{% generation %}{{- message['content'] ~ '<|end|>' -}}{% endgeneration %}"
    "{%- else -%}"
    "{{- message['content'] ~ '<|end|>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


class TinyModelConfig(Config):
    """Shape, vocabulary and seed of a tiny Qwen2; the defaults have about 2.3 million parameters.

    Vocabulary ``characters`` has one token for each byte, so an ASCII character is a token. ``bpe`` learns merges from
    the lines of ``corpus_file``.
    """

    hidden_size: int = Field(default=192, ge=32)
    intermediate_size: int = Field(default=768, ge=8)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    key_value_heads: int = Field(default=2, ge=1)
    max_length: int = Field(default=1024, ge=16, description="the model's context, in tokens")
    vocabulary: Literal["characters", "bpe"] = "characters"
    vocabulary_size: int = Field(default=2048, ge=300, description="most tokens that bpe may learn")
    corpus_file: str | None = Field(default=None, description="text that bpe learns its merges from")
    tie_embeddings: bool = True
    initializer_range: float = Field(default=0.02, gt=0, description="standard deviation of the first weights")
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _shape_fits(self) -> "TinyModelConfig":
        if self.hidden_size % (16 * self.heads) or self.hidden_size < 32 * self.heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} divided by heads {self.heads} must be a multiple of 16 "
                "and at least 32, for vLLM's attention on CPU"
            )
        if self.heads % self.key_value_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of key_value_heads {self.key_value_heads}")
        if (self.vocabulary == "bpe") != (self.corpus_file is not None):
            raise ValueError("vocabulary bpe needs a corpus_file, and characters has none")
        return self


def create_tiny_model(folder: str | Path, config: TinyModelConfig) -> Path:
    """Write a randomly initialised model and its tokenizer into ``folder``, and return the folder.

    The weights depend on ``config`` alone, and the global random state is left as it was.

    Raises:
        JobError: ``corpus_file`` cannot be read.
    """
    import torch
    from transformers import GenerationConfig, Qwen2ForCausalLM

    folder = Path(folder)
    tokenizer = create_tokenizer(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = Qwen2ForCausalLM(qwen2_config(config, tokenizer))
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def qwen2_config(config: TinyModelConfig, tokenizer: "PreTrainedTokenizerBase") -> "Qwen2Config":
    """The transformers config; its vocabulary is the tokenizer's, so every id that can be sampled has a token."""
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.key_value_heads,
        max_position_embeddings=config.max_length,
        tie_word_embeddings=config.tie_embeddings,
        initializer_range=config.initializer_range,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


def create_tokenizer(config: TinyModelConfig) -> "PreTrainedTokenizerBase":
    """A byte-level BPE tokenizer in Qwen2's form, special tokens first.

    It is made as a ``Qwen2Tokenizer`` because that is what ``AutoTokenizer`` rebuilds for a Qwen2 folder, whatever
    pre-tokenizer was saved: any other form would give other ids once it is loaded.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate((*SPECIAL_TOKENS, *alphabet))},
        merges=[],
        unk_token=None,
        eos_token=END_TOKEN,
        pad_token=PAD_TOKEN,
        extra_special_tokens=[f"<|{role}|>" for role in ROLES],
        model_max_length=config.max_length,
    )
    if config.corpus_file is not None:
        try:
            lines = Path(config.corpus_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise JobError(f"corpus_file: cannot read {config.corpus_file!r}: {error}") from error
        if not any(lines):
            raise JobError(f"corpus_file: {config.corpus_file!r} is empty; give a text to learn the vocabulary from")
        tokenizer = tokenizer.train_new_from_iterator([lines], config.vocabulary_size, show_progress=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
