"""GPUs by name, and clusters of them. The shares of its data sheet's peaks that a device reaches are assumptions."""

import re
from dataclasses import dataclass

from posttrain.errors import JobError

MEMORY_SHARE = 0.9  # beside the driver's context, communication buffers and fragmentation
ARITHMETIC_SHARE = 0.4  # in training, scoring, prefill and decoding alike
BANDWIDTH_SHARE = LINK_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class Device:
    """What a device reaches: ``memory`` in bytes, ``flops`` in dense bfloat16 operations a second, and in bytes a
    second the ``bandwidth`` of its memory, of its ``link`` in the machine and of the ``network`` beyond (one way)."""

    name: str
    memory: float
    flops: float
    bandwidth: float
    link: float
    network: float

    @classmethod
    def of_peaks(cls, name: str, gb: float, tflops: float, gb_s: float, link: float, network: float) -> "Device":
        """From a data sheet: GB, TFLOP/s and GB/s."""
        links = (LINK_SHARE * link * 1e9, LINK_SHARE * network * 1e9)
        flops, bandwidth = ARITHMETIC_SHARE * tflops * 1e12, BANDWIDTH_SHARE * gb_s * 1e9
        return cls(name, MEMORY_SHARE * gb * 1e9, flops, bandwidth, *links)


# SXM forms (L40S: PCIe), with the usual network of a machine of eight: 400, 400, 200 and 100 Gb/s for each GPU.
GPUS = {
    "H100": Device.of_peaks("H100", 80, 989, 3350, 450, 50),
    "H200": Device.of_peaks("H200", 141, 989, 4800, 450, 50),
    "A100-80": Device.of_peaks("A100-80", 80, 312, 2039, 300, 25),
    "L40S": Device.of_peaks("L40S", 48, 362, 864, 32, 12.5),
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """``nodes`` machines of ``per_node`` devices."""

    device: Device
    per_node: int = 1
    nodes: int = 1

    def link(self, gpus: int) -> float:
        """Bytes a second between ``gpus`` neighbours: within own memory, in the machine, or over the network."""
        device = self.device
        return device.bandwidth if gpus == 1 else device.link if gpus <= self.per_node else device.network


def parse_cluster(text: str, nodes: int) -> Cluster:
    """``"8xH100"`` on each of ``nodes`` machines.

    Raises:
        JobError: the form is another, or the GPU is not in the table.
    """
    match = re.fullmatch(r"([1-9]\d*)x(.+)", text)
    if match is None or match[2] not in GPUS:
        raise JobError(f"--gpus {text}: should be a number and a known GPU, as 8xH100; known are {', '.join(GPUS)}")
    return Cluster(GPUS[match[2]], int(match[1]), nodes)
