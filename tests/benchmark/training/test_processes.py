"""Work for several processes: in order, and started anew instead of forked."""

import os

import pytest
import torch

from sise.benchmark.training.processes import CHUNK, in_processes

WHO = "(lambda os, torch: (os.getpid(), os.getppid(), torch.get_num_threads()))(__import__('os'), __import__('torch'))"


def test_little_work_is_done_here():
    assert list(in_processes(eval, [WHO] * CHUNK, 8)) == [(os.getpid(), os.getppid(), torch.get_num_threads())] * CHUNK
    assert list(in_processes(abs, [], 2)) == []


@pytest.mark.slow
def test_more_work_is_done_in_order_by_processes_of_one_thread_that_no_fork_made():
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # their locks would be copied by a fork, and never opened
    torch.randn(300, 300) @ torch.randn(300, 300)
    try:
        jobs = [f"({number}, {WHO}, 'pytest' in __import__('sys').modules)" for number in range(CHUNK + 1)]
        found = list(in_processes(eval, jobs, 2))
    finally:
        torch.set_num_threads(before)
    assert [number for number, *_ in found] == list(range(CHUNK + 1))
    assert os.getpid() not in {who[0] for _, who, _ in found}
    assert {(who[1], who[2], inherited) for _, who, inherited in found} == {(os.getpid(), 1, False)}
