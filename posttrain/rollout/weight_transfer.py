"""Ways of a whole policy into replicas: as files that all can read, or from GPU to GPU."""

import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
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


class WeightTransfer(Protocol):
    """Sends a policy to all replicas; to one that was restarted, again."""

    def send(self, buckets: Buckets, replicas: Sequence[Replica]) -> None: ...

    def resend(self, replica: Replica) -> None:
        """Raises ``EngineError`` where the policy can be had from the trainer alone."""
        ...


class FileTransfer:
    """Safetensors files, a bucket each, in a folder that trainer and replicas share. The newest policy stays there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.current: Path | None = None

    def send(self, buckets: Buckets, replicas: Sequence[Replica]) -> None:
        """Write the policy once, and have every replica read it."""
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        written = Path(tempfile.mkdtemp(prefix="policy_", dir=self.folder))
        try:
            for number, bucket in enumerate(buckets):
                tensors = {name: tensor.cpu().contiguous() for name, tensor in bucket}
                save_file(tensors, written / f"{number:06d}.safetensors")
        except BaseException:
            shutil.rmtree(written)
            raise
        previous, self.current = self.current, written
        at_once(replicas, self.resend)
        if previous is not None:
            shutil.rmtree(previous)

    def resend(self, replica: Replica) -> None:
        """Have ``replica`` read the newest policy; before the first, it has the model's own weights."""
        if self.current is not None:
            replica.load_weights(self.current)


class NCCLTransfer:
    """vLLM's weight transfer: the trainer broadcasts to the workers of all replicas at once.

    Written to the interface of vLLM 0.32 and never run. The trainer's GPU must not be a replica's. The policy is not
    kept: a replica that was restarted gets the next one.

    Args:
        shapes: names and shapes of the tensors, in the order in which they are sent.
    """

    def __init__(self, shapes: Mapping[str, torch.Size], dtype: torch.dtype) -> None:
        self.shapes = shapes
        self.dtype = dtype
        self._members: list[Replica] = []
        self._engine: Any = None

    def send(self, buckets: Buckets, replicas: Sequence[Replica]) -> None:
        """Broadcast the policy; the group is made anew whenever a replica has come or gone."""
        from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

        shapes, dtype = self.shapes, self.dtype

        class Source(WeightSource):
            def metadata(self) -> list[Any]:
                return [ParamMeta(name, dtype, tuple(shape)) for name, shape in shapes.items()]

            def __iter__(self) -> Any:
                return ((name, tensor) for bucket in buckets for name, tensor in bucket)

        if self._members != list(replicas):
            if self._engine is not None:
                self._engine.shutdown()
            address = socket.gethostbyname(socket.gethostname())
            with socket.socket() as probe:
                probe.bind(("", 0))
                port = probe.getsockname()[1]
            group = NCCLTrainerInitInfo(address, port, world_size=1 + len(replicas), rank=0)
            client = TransferClient(replicas)
            self._engine = NCCLTrainerWeightTransferEngine.trainer_init(group, client=client, source=Source())
            self._members = list(replicas)
        self._engine.source = Source()
        self._engine.send_weights()

    def resend(self, replica: Replica) -> None:
        """The trainer's policy may already be another one."""
        self._members = []
        raise EngineError("its weights come with the next weight update")


class TransferClient:
    """vLLM's ``VLLMWeightSyncClient`` over several replicas of one worker each."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.replicas = list(replicas)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Each replica joins the group under a rank of its own; the trainer has rank 0."""

        def join(replica: Replica) -> None:
            rank = 1 + self.replicas.index(replica)
            replica.post("/init_weight_transfer_engine", init_info=init_info | {"rank_offset": rank})

        at_once(self.replicas, join)

    def start_weight_update(self) -> None:
        at_once(self.replicas, lambda replica: replica.post("/start_weight_update"))

    def update_weights(self, update_info: Any) -> None:
        at_once(self.replicas, lambda replica: replica.post("/update_weights", update_info=update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        at_once(self.replicas, lambda replica: replica.post("/finish_weight_update", weight_version=weight_version))
