"""Tests of the limit on equal log messages."""

import logging
import time

import pytest
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser

from detector.serving.log_limit import LogLimit, limit_logs


def messages(caplog: pytest.LogCaptureFixture, limit: LogLimit, names: list[str]) -> list[str]:
    logger = logging.getLogger("test_log_limit")
    logger.addFilter(limit)
    try:
        for name in names:
            logger.warning("invalid request from %s", name)
        return [record.getMessage() for record in caplog.records]
    finally:
        logger.removeFilter(limit)
        caplog.clear()


def test_equal_messages_are_counted_instead_of_logged(caplog: pytest.LogCaptureFixture) -> None:
    limit = LogLimit(count=2, seconds=1000)
    assert messages(caplog, limit, ["a", "b", "c", "d"]) == ["invalid request from a", "invalid request from b"]


def test_next_period_tells_how_many_were_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    limit = LogLimit(count=2, seconds=0.05)
    assert len(messages(caplog, limit, ["a"] * 7)) == 2
    time.sleep(0.06)
    expected = ["invalid request from b (5 more like this were not logged)", "invalid request from b"]
    assert messages(caplog, limit, ["b", "b"]) == expected


def test_few_messages_are_all_logged(caplog: pytest.LogCaptureFixture) -> None:
    limit = LogLimit(count=2, seconds=0)
    assert messages(caplog, limit, ["a", "b", "c"]) == [f"invalid request from {name}" for name in "abc"]


def test_damaged_forms_are_not_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("python_multipart"), "level", logging.NOTSET)
    limit_logs()
    parser = MultipartParser(b"boundary")
    with pytest.raises(MultipartParseError):
        parser.write(b"--other")
    assert caplog.records == []
