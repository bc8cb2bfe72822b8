"""Work by several processes: in the order of the items, whatever happens."""

import gc
import os
import threading
import time

import pytest

from actionkit.data.jobs import in_turn


def square(number):
    time.sleep(0.05 * (number == 0))  # the first is the slowest
    return number**2, os.getpid()


def fail_at_two(number):
    if number == 2:
        raise ValueError("two is wrong")
    return number


def sleep(number):
    if number:
        time.sleep(600)
    return os.getpid()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_the_order_of_the_items(workers):
    results, processes = zip(*in_turn(square, range(8), workers), strict=True)
    assert results == tuple(n**2 for n in range(8))
    assert len(set(processes)) == max(workers, 1)
    assert (os.getpid() in processes) == (workers == 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_work_raises_is_raised_here(workers):
    results = in_turn(fail_at_two, range(4), workers)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two is wrong"):
        next(results)


def test_no_items_no_results():
    assert list(in_turn(square, [], 0)) == []


def test_a_process_that_ends_with_the_loader_s_lock_holds_nobody_up():
    results = in_turn(sleep, [0, 1], 1)
    next(results)
    lock = results.gi_frame.f_locals["results"]._workers_done_event._cond
    assert lock.acquire()  # by whom, an ended process or this one, makes no difference
    closing = threading.Thread(target=results.close, daemon=True)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()
    gc.collect()  # the loader's iterator, if it is not gone yet, sets its event now


def test_closed_early_it_ends_processes_in_the_midst_of_their_work():
    results = in_turn(sleep, [0, 1], 1)
    process = next(results)
    start = time.monotonic()
    results.close()
    for _ in range(100):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    assert time.monotonic() - start < 60
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
