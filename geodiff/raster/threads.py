"""Threads for kernels, which release the GIL: Python's own, asleep when idle, as many as torch uses.

torch's own threads spin while they wait, which costs tens of milliseconds on a busy machine, and gain nothing on small
tensors: a loop of such runs torch on one thread, and its kernels on more (`kernels_on`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import torch

_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)
_chosen: list[int] = []


def count() -> int:
    """How many threads kernels take."""
    return _chosen[-1] if _chosen else torch.get_num_threads()


@contextmanager
def kernels_on(number: int) -> Iterator[None]:
    """Kernels take this many threads, whatever torch takes; for one thread of a process at a time."""
    _chosen.append(number)
    try:
        yield
    finally:
        _chosen.pop()


def together(work: Callable[[], None], helpers: int) -> None:
    """Runs work that draws its pieces from a common counter on this thread and on up to `helpers` others at once; ends,
    with the first error, when all have ended. Helpers that have not begun when this thread is done are not needed."""
    number = count()
    helpers = min(helpers, number - 1)
    if helpers > 0 and number not in _pools:
        _pools[number] = ThreadPoolExecutor(number - 1, thread_name_prefix="geodiff-kernels")
    waiting = [_pools[number].submit(work) for _ in range(helpers)]
    try:
        work()
    finally:
        begun = [future for future in waiting if not future.cancel()]
        wait(begun)
    for future in begun:
        future.result()


def each(function: Callable[..., Any], arguments: Sequence[tuple]) -> list[Any]:
    """The function's values of each of the arguments, in their order; threads take the next one when they are free."""
    values: list[Any] = [None] * len(arguments)
    numbers = itertools.count()

    def work() -> None:
        while (number := next(numbers)) < len(arguments):
            values[number] = function(*arguments[number])

    together(work, len(arguments) - 1)
    return values
