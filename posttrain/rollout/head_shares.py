"""Over how many workers or ranks attention can be shared, head by head."""

from typing import Any


def head_shares(model_config: Any) -> list[int]:
    """The numbers that divide the attention heads, and the key heads or are divided by them (which are then copied).

    Args:
        model_config: a transformers config, of the text part where there are several.
    """
    heads = model_config.num_attention_heads
    of_keys = getattr(model_config, "num_key_value_heads", None) or heads
    return [n for n in range(1, heads + 1) if heads % n == 0 and (of_keys % n == 0 or n % of_keys == 0)]
