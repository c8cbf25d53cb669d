"""Checkpoints that a kill at any moment, a full disk or a bad sector cannot turn into a wrong resume.

A checkpoint is written into a hidden folder beside its final place, flushed to the disk, sealed by a manifest with the
size and hash of every file, and only then renamed. A folder without a manifest that fits its files is never loaded.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from posttrain.errors import CheckpointError

CHECKPOINTS_FOLDER = "checkpoints"
MANIFEST_FILE = "manifest.json"
FORMAT = 2
NEARLY_NOTHING = 2**20  # bytes: a disk with less is full, whatever the library that wrote to it says


def _this_process(flag: bool) -> bool:
    return flag


class CheckpointStore:
    """The checkpoints of one run, ``checkpoints/step_000012`` and so on in its folder.

    Args:
        folder: the run folder; with several machines, on a disk that they share.
        keep: how many checkpoints stay, the newest; at least 1.
    """

    def __init__(self, folder: str | Path, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self.folder = Path(folder) / CHECKPOINTS_FOLDER
        self.keep = keep

    def save(
        self,
        step: int,
        write: Callable[[Path], None],
        *,
        is_main: bool = True,
        any_rank: Callable[[bool], bool] = _this_process,
    ) -> Path:
        """Write the checkpoint of ``step``, called on every rank, and return its folder.

        What killed runs left half-written is removed first. Once the new checkpoint is in place, those beyond ``keep``
        go, and so do those of later steps, which a run that went back to an earlier step has abandoned.

        Args:
            write: puts this rank's files into the folder that it is given.
            is_main: whether this rank seals the checkpoint; exactly one does.
            any_rank: whether the flag is set on any rank, answered when all ranks have asked.

        Raises:
            CheckpointError: the files cannot be written, here or on another rank; earlier checkpoints are as before.
        """
        target = self.folder / f"step_{step:06d}"
        temporary = self.folder / f".{target.name}.tmp"
        for task in (
            lambda: self._start(temporary) if is_main else None,
            lambda: write(temporary),
            lambda: self._publish(temporary, target, step) if is_main else None,
        ):
            problem = self._attempt(task, temporary)
            if any_rank(problem is not None):
                if is_main:
                    shutil.rmtree(temporary, ignore_errors=True)
                raise problem or CheckpointError(
                    f"{target}: another process could not write its part; its message says why"
                )
        return target

    def latest_valid(self, on_refused: Callable[[str], None]) -> Path | None:
        """The newest valid checkpoint; ``on_refused`` is told of each newer one that is not, and why."""
        for path in reversed(self.paths()):
            try:
                validate(path)
            except CheckpointError as error:
                on_refused(str(error))
            else:
                return path
        return None

    def resolve(self, resume: str, on_refused: Callable[[str], None]) -> Path | None:
        """The checkpoint that ``--resume auto|PATH`` means; None: there is none yet, the run starts.

        Raises:
            CheckpointError: the checkpoint at PATH is not valid, or there are checkpoints and none is.
        """
        if resume != "auto":
            validate(Path(resume))
            return Path(resume)
        found = self.latest_valid(on_refused)
        if found is None and self.paths():
            raise CheckpointError(
                f"{self.folder}: no checkpoint here is valid. Name another (--resume PATH), or remove the run folder "
                "to start again"
            )
        return found

    def paths(self) -> list[Path]:
        """The folders of all checkpoints, oldest first, valid or not."""
        found = [path for path in self.folder.glob("step_*") if path.name.removeprefix("step_").isdigit()]
        return sorted(found, key=_step_of)

    def _start(self, temporary: Path) -> None:
        for leftover in self.folder.glob(".step_*.tmp"):
            shutil.rmtree(leftover)
        temporary.mkdir(parents=True)

    def _publish(self, temporary: Path, target: Path, step: int) -> None:
        _seal(temporary, step)
        if target.exists():  # refused when the run resumed, or of the branch that it left
            _remove(target)
        temporary.rename(target)
        _flush(self.folder)
        earlier = [path for path in self.paths() if _step_of(path) < step]
        later = [path for path in self.paths() if _step_of(path) > step]
        for path in [*earlier[: max(0, len(earlier) + 1 - self.keep)], *later]:
            _remove(path)

    def _attempt(self, task: Callable[[], None], temporary: Path) -> Exception | None:
        """Run ``task``; what it raised is returned, so that no rank waits for one that failed."""
        try:
            task()
        except Exception as error:
            explained = self._explained(error, temporary)
            if explained is not error:
                explained.__cause__ = error
            return explained
        return None

    def _explained(self, error: Exception, temporary: Path) -> Exception:
        """A full or failing disk in the user's words; other errors as they are."""
        written = _bytes_in(temporary)
        place = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        free = shutil.disk_usage(place).free
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or free < NEARLY_NOTHING
        if not full and not isinstance(error, OSError):
            return error
        name = temporary.name.removeprefix(".").removesuffix(".tmp")
        problem = f"{self.folder / name}: the checkpoint could not be written: {error}."
        if full:
            problem = f"{self.folder / name}: the disk is full: {_size(free + written)} were free, {self._needed()}."
        intact = f"{self.paths()[-1].name} is untouched; " if self.paths() else ""
        return CheckpointError(
            f"{problem} {intact}{'make room' if full else 'mend that'}, then go on with --resume auto"
        )

    def _needed(self) -> str:
        if not self.paths():
            return "and a checkpoint needs more"
        newest = self.paths()[-1]
        return f"and {newest.name} took {_size(_bytes_in(newest))}"


def validate(path: Path) -> None:
    """Check a checkpoint's files against its manifest.

    Raises:
        CheckpointError: names the checkpoint and what is wrong: no manifest, or a file that is missing or changed.
    """
    entries = _read_manifest(path)
    for file, (size, _) in entries.items():
        if not file.is_file():
            raise CheckpointError(f"{path}: refused, {file.relative_to(path)} is missing")
        found = file.stat().st_size
        if found != size:
            raise CheckpointError(f"{path}: refused, {file.relative_to(path)} has {found} bytes instead of {size}")
    for file, digest in _digests(list(entries)).items():
        if digest != entries[file][1]:
            raise CheckpointError(f"{path}: refused, {file.relative_to(path)} was altered (its SHA-256 is another)")


def _read_manifest(path: Path) -> dict[Path, tuple[int, str]]:
    """Size and SHA-256 of every file of the checkpoint."""
    file = path / MANIFEST_FILE
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint")
    if not file.is_file():
        raise CheckpointError(f"{path}: refused, it has no {MANIFEST_FILE}, so it was never finished")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        version = manifest["format"]
        entries = {path / name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: refused, its {MANIFEST_FILE} cannot be read: {error}") from error
    if version != FORMAT:
        raise CheckpointError(f"{path}: refused, it has format {version} and this version reads format {FORMAT}")
    return entries


def _seal(folder: Path, step: int) -> None:
    """Flush every file and folder, then write the manifest that vouches for them."""
    entries = {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": digest}
        for file, digest in _digests(list(_files(folder))).items()
    }
    for path in folder.rglob("*"):
        _flush(path)
    manifest = folder / MANIFEST_FILE
    manifest.write_text(json.dumps({"format": FORMAT, "step": step, "files": entries}, indent=1), encoding="utf-8")
    _flush(manifest)
    _flush(folder)


def _digests(files: list[Path]) -> dict[Path, str]:
    """SHA-256 of each file; large files are read side by side."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(files, pool.map(_digest, files), strict=True))


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in _files(folder))


def _flush(path: Path) -> None:
    """Make what was written to a file, or the names in a folder, survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a checkpoint; killed half-way, it leaves nothing that looks like one."""
    hidden = path.with_name(f".{path.name}.old.tmp")
    path.rename(hidden)
    shutil.rmtree(hidden)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
