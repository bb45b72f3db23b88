"""What a sweep says while it runs."""

import numpy as np
from sweep.problems import linear

import nfa_flow as nf
from nfa_flow.sweep import progress
from nfa_flow.sweep.progress import Tally
from nfa_flow.sweep.result import RunResult


def result(status="completed"):
    counts = {"gradient_evaluations": 300, "hessian_vector_products": 100, "steps": 50}
    return RunResult(np.zeros(0), np.zeros(0, int), {}, status, "", 1.0, counts)


def test_the_line_tells_done_running_failed_speed_and_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    tally = Tally(total=1010, kept=10)
    tally.running = 4
    assert tally.describe() == "10 of 1,010 runs, 4 running, 0 s gone"
    now[0] = 50.0
    for status in ["completed"] * 9 + ["diverged"]:
        tally.add(result(status))
    # 10 of 1 000 runs in 50 s: 990 left, 5 s each; 10 · 400 gradients and products in 50 s.
    tally.running = 3
    expected = "20 of 1,010 runs, 3 running, 1 failed, 80 gradients/s, 1:22:30 left"
    assert tally.describe() == expected


def test_a_function_is_told_the_counts():
    told = []
    nf.sweep(linear, nf.Grid(seed=range(3)), progress=lambda tally: told.append((tally.total, tally.done)))
    assert told[0][1] <= told[-1][1] and told[-1] == (3, 3)
