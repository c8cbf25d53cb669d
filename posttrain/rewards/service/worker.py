"""The process that scores: pickled batches in, pickled outputs out, until its standard input ends.

Started by ``WorkerProcess`` as ``python -m posttrain.rewards.service.worker``. The first frame is the reward's config;
the answer to it says whether the reward could be made.
"""

import os
import pickle
import queue
import signal
import struct
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from pydantic import TypeAdapter

from posttrain.errors import UserError
from posttrain.rewards.checked import score_checked
from posttrain.rewards.config import RewardConfig
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput
from posttrain.rewards.workers.worker import private_pipes

LENGTH = struct.Struct("!Q")
# A batch that still runs when the server is gone is given this long.
ORPHAN_GRACE_S = 5.0


def main() -> None:
    """Serve batches; never returns early, but for a reward that cannot be made."""
    # A stop signal for the whole process group is the server's to act on: it drains, then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipes = private_pipes()
    requests, replies = os.fdopen(pipes[0], "rb"), os.fdopen(pipes[1], "wb")
    frames = _frames(requests)
    try:
        reward: Reward = TypeAdapter(RewardConfig).validate_python(next(frames)).build()
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        _write(replies, f"{type(error).__name__}: {error}")
        return
    _write(replies, None)
    for inputs in frames:
        _write(replies, outputs_of_batch(reward, inputs))
    reward.close()


def outputs_of_batch(reward: Reward, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
    """One output for each input. Where the reward raises, the inputs are scored one by one, so that an item costs no
    other request its answer."""
    try:
        return score_checked(reward, inputs)
    except Exception as error:
        if len(inputs) == 1:
            cause = error.__cause__ or error
            traceback.print_exception(cause)
            return [RewardOutput(None, error="crashed", message=str(error))]
        return [output for item in inputs for output in outputs_of_batch(reward, [item])]


def _frames(requests: BinaryIO) -> Iterator[Any]:
    """What the server sends, read ahead by a thread that ends the process when the server is gone."""
    frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def read() -> None:
        while len(head := requests.read(LENGTH.size)) == LENGTH.size:
            frames.put(requests.read(LENGTH.unpack(head)[0]))
        frames.put(None)
        time.sleep(ORPHAN_GRACE_S)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    while (frame := frames.get()) is not None:
        yield pickle.loads(frame)


def _write(replies: BinaryIO, value: Any) -> None:
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    replies.write(LENGTH.pack(len(data)) + data)
    replies.flush()


if __name__ == "__main__":
    main()
