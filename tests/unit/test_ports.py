"""Who holds a port."""

import os
import socket

from orchestrator.node.ports import holder
from tests.support.processes import free_ports


def test_a_free_port_has_no_holder() -> None:
    assert holder("127.0.0.1", free_ports()) is None


def test_a_taken_port_is_reported_with_its_process() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        told = holder("127.0.0.1", taken.getsockname()[1])
    assert told is not None
    assert f"(pid {os.getpid()})" in told


def test_udp_ports_are_checked() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        assert holder("127.0.0.1", taken.getsockname()[1], udp=True) is not None
