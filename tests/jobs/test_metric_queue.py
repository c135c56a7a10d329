import logging
import threading

import pytest

from jobs.metric_queue import MetricQueue, Point, RefusedError


class Server:
    """Takes batches, after failing as often as told."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.points: list[Point] = []

    def __call__(self, batch: list[Point]) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.points += batch


def test_points_arrive_once_and_in_order() -> None:
    server = Server()
    log = MetricQueue(server)
    for step in range(2_000):
        log(step, {"loss": step / 2, "rate": 1.0})
    log.close()
    assert [(p.key, p.step, p.value) for p in server.points] == [
        point for step in range(2_000) for point in (("loss", step, step / 2), ("rate", step, 1.0))
    ]


def test_a_batch_is_sent_again_while_the_server_is_away(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(OSError("connection refused"), OSError("connection refused"))
    log = MetricQueue(server, first_pause_seconds=0.01)
    log(7, {"loss": 2.0})
    log.close()
    assert [(p.key, p.step, p.value) for p in server.points] == [("loss", 7, 2.0)]
    assert caplog.text.count("metrics cannot be sent, trying on: connection refused") == 1
    assert "not sent" not in caplog.text


def test_a_server_that_stays_away_costs_points_and_a_warning_when_the_time_for_closing_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = MetricQueue(Server(*[OSError("away")] * 1_000), first_pause_seconds=0.01, close_seconds=0.05)
    log(0, {"a": 1.0, "b": 2.0})
    log.close()
    assert "2 points of the metrics were not sent" in caplog.text


def test_a_refused_batch_is_dropped_and_the_next_goes_through() -> None:
    server = Server(RefusedError("no such run"))
    log = MetricQueue(server)
    log(0, {"a": 1.0})
    while server.failures:
        threading.Event().wait(0.01)
    log(1, {"a": 2.0})
    log.close()
    assert [p.step for p in server.points] == [1]
    assert log.unsent_points == 1


def test_a_full_queue_loses_points_and_never_blocks_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    asked, answer = threading.Event(), threading.Event()

    def hang(batch: list[Point]) -> None:
        asked.set()
        answer.wait()

    log = MetricQueue(hang, capacity_points=3)
    log(0, {"a": 1.0})
    assert asked.wait(5.0)
    log(1, {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": 1.0})
    assert log.unsent_points == 2
    answer.set()
    log.close()
    assert "2 points of the metrics were not sent" in caplog.text


def test_closing_twice_is_closing_once(caplog: pytest.LogCaptureFixture) -> None:
    log = MetricQueue(Server())
    log.close()
    log.close()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
