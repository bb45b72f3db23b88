"""The threads of BLAS are limited while somebody needs that, and given back after the last one."""

import threading

import pytest
import scipy.linalg  # noqa: F401  (so that there is a BLAS to limit)
from threadpoolctl import threadpool_info, threadpool_limits

import nfa_flow.numerics.blas
from nfa_flow.numerics.blas import on_one_blas_thread, one_blas_thread


def threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.fixture(autouse=True)
def two_threads():
    with threadpool_limits(2, user_api="blas"):
        if set(threads()) != {2}:
            pytest.skip("this BLAS has one thread only")
        yield


def test_two_that_overlap_leave_the_threads_as_they_were():
    first_is_in, second_is_in, first_is_out = threading.Event(), threading.Event(), threading.Event()

    def first():
        with one_blas_thread():
            first_is_in.set()
            second_is_in.wait(10)
        first_is_out.set()

    other = threading.Thread(target=first)
    other.start()
    first_is_in.wait(10)
    with one_blas_thread():
        second_is_in.set()
        other.join(10)
        assert first_is_out.is_set() and set(threads()) == {1}
    assert set(threads()) == {2}


def test_nested_and_failing_users_leave_the_threads_as_they_were():
    @on_one_blas_thread
    def fails():
        assert set(threads()) == {1}
        raise KeyError

    with one_blas_thread():
        with pytest.raises(KeyError):
            fails()
        assert set(threads()) == {1}
    assert set(threads()) == {2}


def test_a_limit_that_cannot_be_set_counts_no_user(monkeypatch):
    def refuse():
        raise OSError

    monkeypatch.setattr(nfa_flow.numerics.blas, "_controller", refuse)
    with pytest.raises(OSError), one_blas_thread():
        pass
    monkeypatch.undo()
    with one_blas_thread():
        assert set(threads()) == {1}
    assert set(threads()) == {2}
