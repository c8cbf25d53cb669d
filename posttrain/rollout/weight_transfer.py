"""Ways of a whole policy into replicas: as files that all can read, or from GPU to GPU."""

import json
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from posttrain.errors import EngineError
from posttrain.rollout.replica import Replica

Item = TypeVar("Item")
Result = TypeVar("Result")
Buckets = Iterable[Sequence[tuple[str, Tensor]]]


def at_once(items: Sequence[Item], task: Callable[[Item], Result]) -> list[Result]:
    """``task`` of every item, on threads."""
    with ThreadPoolExecutor(max_workers=32) as executor:
        return list(executor.map(task, items))


class FileTransfer:
    """Safetensors files, a bucket each, in a folder that trainer and replicas share. The newest policy stays there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.current: Path | None = None

    def send(self, buckets: Buckets, replicas: Sequence[Replica]) -> None:
        """Write the policy once, and have every replica read it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        written = Path(tempfile.mkdtemp(prefix="policy_", dir=self.folder))
        try:
            self.write(buckets, written)
        except BaseException:
            shutil.rmtree(written)
            raise
        previous, self.current = self.current, written
        if previous is not None:
            shutil.rmtree(previous)
        at_once(replicas, self.resend)

    def write(self, buckets: Buckets, folder: Path) -> None:
        """A file of each bucket."""
        for number, bucket in enumerate(buckets):
            _save(bucket, folder / f"{number:06d}.safetensors")

    def resend(self, replica: Replica) -> None:
        """Have ``replica``, which was restarted, read the newest policy."""
        replica.call("posttrain_load", str(self.current))


class AdapterTransfer(FileTransfer):
    """The same for a LoRA adapter, in PEFT's files, of ``max_rank`` at most."""

    def __init__(self, folder: Path, max_rank: int) -> None:
        super().__init__(folder)
        self.max_rank = max_rank

    def write(self, buckets: Buckets, folder: Path) -> None:
        """One file, and PEFT's description of it; lora_B comes with its scale.

        Raises:
            EngineError: its rank is above ``max_rank``.
        """
        tensors = [pair for bucket in buckets for pair in bucket]
        rank = max(len(tensor) for name, tensor in tensors if ".lora_A." in name)
        if rank > self.max_rank:
            raise EngineError(f"the adapter has rank {rank}, and engine.max_lora_rank is {self.max_rank}: raise it")
        _save(tensors, folder / "adapter_model.safetensors")
        modules = sorted({name.split(".")[-3] for name, _ in tensors})
        described = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": modules}
        (folder / "adapter_config.json").write_text(json.dumps(described), encoding="utf-8")

    def resend(self, replica: Replica) -> None:
        """Have ``replica`` load the newest adapter."""
        assert self.current is not None
        replica.load_adapter(self.current)


def _save(tensors: Sequence[tuple[str, Tensor]], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors}, path)


class NCCLTransfer:
    """vLLM's own transfer, GPU to GPU. Written to the interface of vLLM 0.32, and never run.

    The policy is held whole while it is sent, to one replica after another, each in a group of its own with the
    trainer, whose GPU must not be the replica's.
    """

    def send(self, buckets: Buckets, replicas: Sequence[Replica]) -> None:
        """Broadcast the policy."""
        from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
        from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

        pairs = [pair for bucket in buckets for pair in bucket]

        class Source(WeightSource):
            def metadata(self) -> list[Any]:
                return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in pairs]

            def __iter__(self) -> Iterator[tuple[str, Tensor]]:
                return iter(pairs)

        for replica in replicas:
            if replica.sender is None:
                with socket.socket() as probe:
                    probe.bind(("", 0))
                    address = (socket.gethostbyname(socket.gethostname()), probe.getsockname()[1])
                replica.sender = NCCLTrainerWeightTransferEngine.trainer_init(
                    NCCLTrainerInitInfo(*address, world_size=1 + replica.workers, rank=0),
                    client=HTTPVLLMWeightSyncClient(replica.url),
                    source=Source(),
                )
            replica.sender.source = Source()
            replica.sender.send_weights()

    def resend(self, replica: Replica) -> None:
        """The trainer's policy may already be another one."""
        raise EngineError("its weights come with the next weight update")
