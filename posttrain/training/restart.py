"""Going back to the initial policy before each iteration's fine-tuning, as STaR does."""

from accelerate.utils import DistributedType
from torch import Tensor
from torch.nn import Parameter

from posttrain.errors import JobError
from posttrain.training.update import Update


class InitialPolicy:
    """A copy of the parameters that ``update`` trains.

    Raises:
        JobError: under DeepSpeed, which holds the parameters in a form of its own.
    """

    def __init__(self, update: Update, option: str) -> None:
        if update.accelerator.distributed_type == DistributedType.DEEPSPEED:
            raise JobError(f"{option} cannot run under DeepSpeed; launch without it (one GPU or DDP)")
        self.update = update
        self.copies: list[Tensor] = [parameter.detach().clone() for parameter in self._trained]

    def restore(self) -> None:
        """Go back to it, with an optimizer without memory."""
        for parameter, initial in zip(self._trained, self.copies, strict=True):
            parameter.data.copy_(initial)
            self.update.optimizer.state.pop(parameter, None)

    @property
    def _trained(self) -> list[Parameter]:
        return [parameter for group in self.update.optimizer.param_groups for parameter in group["params"]]
