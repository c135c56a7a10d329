"""The next batch is made while this one is used: in order, one ahead at most, and what fails is told in its turn."""

import threading
import time

import pytest

from gpt_core.training.prefetch import Prefetch

PATIENCE_SECONDS = 10.0


class Maker:
    """Makes batches, and says which it has begun."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.threads: set[int] = set()
        self.changed = threading.Condition()

    def __call__(self, step: int) -> str:
        with self.changed:
            self.begun.append(step)
            self.threads.add(threading.get_ident())
            self.changed.notify_all()
        if step == 5:
            raise ValueError("the shard of step 5 is gone")
        return f"batch {step}"

    def wait_for(self, step: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: step in self.begun, PATIENCE_SECONDS)


def test_batches_come_in_order_and_never_more_than_one_is_ahead() -> None:
    make = Maker()
    with Prefetch(make, first=1, stop=4) as prefetch:
        make.wait_for(1)  # before anybody asks
        for step in (1, 2, 3):
            assert prefetch(step) == f"batch {step}"
            make.wait_for(min(step + 1, 3))
            assert make.begun == list(range(1, min(step + 1, 3) + 1))
    assert len(make.threads) == 1
    assert threading.get_ident() not in make.threads


def test_what_a_batch_raises_is_raised_where_its_step_is_asked_for() -> None:
    make = Maker()
    with Prefetch(make, first=4, stop=9) as prefetch:
        assert prefetch(4) == "batch 4"
        make.wait_for(5)
        with pytest.raises(ValueError, match="the shard of step 5 is gone"):
            prefetch(5)


def test_only_the_time_that_the_caller_stood_still_is_counted() -> None:
    release, made = threading.Event(), threading.Event()

    def make(step: int) -> int:
        if step == 0:
            release.wait(PATIENCE_SECONDS)
        else:
            made.set()
        return step

    with Prefetch(make, first=0, stop=2) as prefetch:
        timer = threading.Timer(0.05, release.set)
        timer.start()
        prefetch(0)
        waited = prefetch.waited_seconds
        assert made.wait(PATIENCE_SECONDS)
        started = time.perf_counter()
        prefetch(1)
        assert waited >= 0.04
        assert prefetch.waited_seconds - waited <= time.perf_counter() - started


def test_leaving_ends_the_thread() -> None:
    before = threading.active_count()
    with Prefetch(Maker(), first=0, stop=10) as prefetch:
        prefetch(0)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
