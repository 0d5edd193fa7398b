import socket
import urllib.request

import pytest


def test_the_network_is_shut_and_whoever_tries_is_found_out(attempts: list[str]) -> None:
    with pytest.raises(OSError, match="tests have no network"):
        urllib.request.urlopen("http://example.org", timeout=1)
    with socket.socket() as plain, pytest.raises(OSError, match="tests have no network"):
        plain.connect(("127.0.0.1", 9))
    assert len(attempts) == 2
    attempts.clear()


def test_processes_of_this_machine_may_talk() -> None:
    one, other = socket.socketpair()
    one.sendall(b"hello")
    assert other.recv(5) == b"hello"
    one.close()
    other.close()
