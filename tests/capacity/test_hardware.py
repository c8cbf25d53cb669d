"""The table of GPUs."""

import pytest

from posttrain.capacity.hardware import GPUS, Cluster, parse_cluster
from posttrain.errors import JobError


def test_a_cluster_is_read_and_reckons_with_shares_of_the_peaks() -> None:
    cluster = parse_cluster("8xH100", 4)
    assert (cluster.per_node, cluster.nodes, cluster.device.name) == (8, 4, "H100")
    assert cluster.device.memory == pytest.approx(0.9 * 80e9)
    assert cluster.device.flops == pytest.approx(0.4 * 989e12)
    assert cluster.device.bandwidth == pytest.approx(0.7 * 3.35e12)


def test_the_link_is_the_slowest_on_the_way() -> None:
    cluster = Cluster(GPUS["H100"], per_node=8, nodes=4)
    assert cluster.link(1) == cluster.device.bandwidth
    assert cluster.link(8) == pytest.approx(0.7 * 450e9)
    assert cluster.link(9) == pytest.approx(0.7 * 50e9)


@pytest.mark.parametrize("text", ["8xB300", "H100", "0xH100", "8x"])
def test_an_unknown_gpu_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(JobError) as caught:
        parse_cluster(text, 1)
    assert str(caught.value) == (
        f"--gpus {text}: should be a number and a known GPU, as 8xH100; known are H100, H200, A100-80, L40S"
    )
