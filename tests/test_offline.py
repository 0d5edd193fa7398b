"""Tests of the fixtures that block the network: each attempt to use the network fails and is recorded."""

import socket
import urllib.request

import pytest


def test_using_the_network_fails_and_is_recorded(attempts: list[str]) -> None:
    with pytest.raises(OSError, match="tests have no network"):
        urllib.request.urlopen("http://example.org", timeout=1)
    with socket.socket() as plain, pytest.raises(OSError, match="tests have no network"):
        plain.connect(("127.0.0.1", 9))
    assert len(attempts) == 2
    attempts.clear()


def test_sockets_within_the_machine_work() -> None:
    left, right = socket.socketpair()
    left.sendall(b"hello")
    assert right.recv(5) == b"hello"
    left.close()
    right.close()
