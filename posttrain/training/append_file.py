"""Files of lines that a killed process leaves, and the next one goes on with."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from posttrain.errors import DataError, JobError
from posttrain.training.run_folder import differences
from posttrain.training.run_log import replace_file

BLOCK_BYTES = 1 << 16
OTHERWISE = "Name another output, or delete this one to start again."


def opened_to_append(path: Path, depends_on: Mapping[str, Any], by: str) -> BinaryIO:
    """``path``, to be written behind its last whole line, by this process alone. ``FILE.meta.json`` beside it keeps
    what its lines depend on; ``by`` names that, where it is another one.

    Raises:
        DataError: it cannot be written, or holds lines of which nothing says what they depend on.
        JobError: its lines depend on something else, or another process is writing it.
    """
    about = path.with_name(f"{path.name}.meta.json")
    try:
        output = path.open("a+b")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    try:
        fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _drop_torn_line(output)
        if output.seek(0, os.SEEK_END) == 0:
            replace_file(about, json.dumps(depends_on).encode())
        elif not about.is_file():
            raise DataError(
                f"{path} holds rows, but {about.name} is not beside it to say what they are of. {OTHERWISE}"
            )
        elif changes := list(differences(json.loads(about.read_bytes()), json.loads(json.dumps(depends_on)))):
            raise JobError(f"the rows of {path} were made by {by}: {'; '.join(changes[:5])}. {OTHERWISE}")
    except BaseException as error:
        output.close()
        if isinstance(error, BlockingIOError):
            raise JobError(f"{path} is being written by another process") from None
        raise
    return output


def _drop_torn_line(output: BinaryIO) -> None:
    """Cut off what follows the last newline."""
    end = output.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - BLOCK_BYTES)
        output.seek(start)
        newline = output.read(end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    output.truncate(end)
