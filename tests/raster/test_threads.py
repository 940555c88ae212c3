"""Threads of kernels: how many there are, and that every piece of work is done once."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from geodiff.raster import threads


def test_kernels_keep_their_threads_where_torch_has_one() -> None:
    usual = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert threads.count() == 1
        with threads.kernels_on(3):
            assert threads.count() == 3 and torch.get_num_threads() == 1
        assert threads.count() == 1
    finally:
        torch.set_num_threads(usual)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_each_piece_is_done_once_and_in_its_place(number: int) -> None:
    done: list[int] = []

    def square(value: int) -> int:
        done.append(value)
        return value * value

    with threads.kernels_on(number):
        assert threads.each(square, [(value,) for value in range(50)]) == [value * value for value in range(50)]
        assert threads.each(square, []) == []
    assert sorted(done) == list(range(50))


def test_work_runs_on_as_many_threads_as_there_are() -> None:
    meeting = threading.Barrier(3, timeout=30)

    def meet() -> None:
        meeting.wait()

    with threads.kernels_on(3):
        threads.together(meet, 2)
        # No more than there are, however many are asked for.
        threads.together(meet, 10)


def test_threads_that_wait_for_threads_do_not_wait_for_ever() -> None:
    def inner(value: int) -> int:
        return sum(threads.each(abs, [(-value,)] * 5))

    with threads.kernels_on(2):
        assert threads.each(inner, [(value,) for value in range(6)]) == [5 * value for value in range(6)]


def test_an_error_in_a_helper_is_raised() -> None:
    own, meeting = threading.current_thread(), threading.Barrier(2, timeout=30)

    def fail() -> None:
        meeting.wait()
        if threading.current_thread() is not own:
            raise ValueError("broken")

    with threads.kernels_on(2), pytest.raises(ValueError, match="broken"):
        threads.together(fail, 1)


def test_an_error_here_waits_for_the_helpers() -> None:
    own, meeting, ended = threading.current_thread(), threading.Barrier(2, timeout=30), threading.Event()

    def fail() -> None:
        meeting.wait()
        if threading.current_thread() is own:
            raise ValueError("broken")
        time.sleep(0.05)
        ended.set()

    with threads.kernels_on(2), pytest.raises(ValueError, match="broken"):
        threads.together(fail, 1)
    assert ended.is_set()
