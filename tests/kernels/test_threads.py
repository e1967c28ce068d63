"""The native pool: any size, several callers at once, a fork, and no work while idle."""

import os
import threading
import time

import pytest
import torch

from paceline.kernels import ops
from paceline.kernels.native import load

pytestmark = pytest.mark.usefixtures("native")


def _work() -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(9, 256, generator=g), ops.pack_int8(torch.randn(700, 256, generator=g))


def test_any_number_of_threads_gives_the_same() -> None:
    x, packed = _work()
    assert load.set_num_threads(1) == 1
    expected = ops.linear_int8(x, packed, 700)
    for size in (2, 3, 8, 1, 2):
        load.set_num_threads(size)
        for _ in range(20):
            assert torch.equal(ops.linear_int8(x, packed, 700), expected)


def test_zero_means_one_a_core() -> None:
    assert load.set_num_threads(0) == len(os.sched_getaffinity(0))


def test_callers_take_turns() -> None:
    x, packed = _work()
    load.set_num_threads(2)
    expected = [ops.linear_int8(x * i, packed, 700) for i in range(4)]
    wrong: list[int] = []

    def call(i: int) -> None:
        for _ in range(100):
            if not torch.equal(ops.linear_int8(x * i, packed, 700), expected[i]):
                wrong.append(i)

    callers = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for c in callers:
        c.start()
    for c in callers:
        c.join()
    assert wrong == []


def test_sleeping_threads_wake() -> None:
    x, packed = _work()
    load.set_num_threads(2)
    expected = ops.linear_int8(x, packed, 700)
    for pause in (0.0, 1e-5, 1e-4, 1e-3, 1e-2):
        for _ in range(10):
            time.sleep(pause)
            assert torch.equal(ops.linear_int8(x, packed, 700), expected)


def test_idle_threads_burn_nothing() -> None:
    x, packed = _work()
    load.set_num_threads(2)
    ops.linear_int8(x, packed, 700)
    time.sleep(0.01)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.03


def test_a_forked_child_can_go_on() -> None:
    x, packed = _work()
    load.set_num_threads(2)
    expected = ops.linear_int8(x, packed, 700)
    child = os.fork()
    if child == 0:
        same = all(torch.equal(ops.linear_int8(x, packed, 700), expected) for _ in range(5))
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.equal(ops.linear_int8(x, packed, 700), expected)
