"""What the scoring API listens on and what it accepts: the ``server.KEY=VALUE`` of ``posttrain serve``."""

from pydantic import Field

from posttrain.config import Config


class ServerConfig(Config):
    """Limits and timeouts. Token counts are estimates: a token id each, or ``CHARACTERS_PER_TOKEN``."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535, description="0 is any free port")
    workers: int = Field(default=1, ge=1, description="processes of each reward; more for rewards that verify on CPUs")
    batch_tokens: int = Field(default=16384, ge=1, description="a batch is closed when it has this many")
    max_wait_ms: float = Field(default=2.0, ge=0.0, description="how long an item waits for others to join its batch")
    timeout_s: float = Field(default=60.0, gt=0.0, description="of a request; unanswered items are the error timeout")
    max_body_mb: float = Field(default=8.0, gt=0.0)
    max_items: int = Field(default=1024, ge=1, description="of a request")
    max_item_tokens: int = Field(default=131072, ge=1)
    max_nesting: int = Field(default=16, ge=1, description="of lists and objects in an item's further columns")
    max_requests: int = Field(default=1024, ge=1, description="at once; above that, 429")
    max_queued_items: int = Field(default=8192, ge=1, description="of a reward; above that, 429")
    max_queued_tokens: int = Field(default=8_388_608, ge=1, description="of a reward; above that, 429")
    body_timeout_s: float = Field(default=20.0, gt=0.0, description="for a request's head, and again for its body")
    idle_timeout_s: int = Field(default=75, ge=1, description="an unused connection is closed after this long")
