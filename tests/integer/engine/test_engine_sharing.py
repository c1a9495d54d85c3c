"""One engine and several threads, and processes that were forked: the bits of sequential runs, no crash, no wait."""

import gc
import multiprocessing
import os
import resource
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from oracles.reference import small_network

from oaq_repro.errors import InputError
from oaq_repro.integer.engine import Engine

SECONDS = 60  # for a child that waits forever
NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")


class Case:
    """An engine whose operators are large enough for several threads, batches of images and what they give alone."""

    def __init__(self, threads: int, trace: bool = False, seed: int = 0) -> None:
        self.graph, shape, rng = small_network().graph, (3, 64, 56), np.random.default_rng(seed)
        self.batches = [rng.normal(size=(1 + i % 3, *shape)).astype(np.float32) for i in range(8)]
        self.expected = [Engine(self.graph, shape, 1).run(batch) for batch in self.batches]
        self.engine = Engine(self.graph, shape, threads, trace=trace)

    def same(self, index: int) -> bool:
        """Whether the engine makes the same of a batch."""
        found = self.engine.run(self.batches[index])
        return all(np.array_equal(a, b) for a, b in zip(found, self.expected[index], strict=True))


def forked(task) -> int:
    """Exit status of `task` in a forked process: 0 where it is true, 1 where not, negative where a signal ended it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if task() else 1
        finally:
            os._exit(status)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -signal.SIGKILL


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_eight_threads_share_an_engine(threads, trace):
    case = Case(threads, trace)
    order = np.random.default_rng(0).integers(0, len(case.batches), 200)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(case.same, order.tolist()))


def test_values_are_those_of_one_image_while_others_run():
    case = Case(2, trace=True)
    name = next(node.name for node in reversed(case.graph.nodes) if node.name in case.engine._values)
    images = np.concatenate(case.batches)
    known = set()
    for image in images:
        case.engine.run(image[None])
        known.add(case.engine.value(name).tobytes())
    assert len(known) > 1

    def task(index):
        case.engine.run(images[index : index + 1])
        return case.engine.value(name).tobytes()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(task, np.random.default_rng(0).integers(0, len(images), 200).tolist())) <= known


def test_profiles_and_runs_take_turns():
    case = Case(2)
    with ThreadPoolExecutor(8) as pool:
        profiles = [pool.submit(case.engine.profile, case.batches[0][0], 3) for _ in range(20)]
        assert all(pool.map(case.same, [i % 8 for i in range(100)]))
        assert all(list(p.result()) == [node.name for node in case.graph.nodes] for p in profiles)


def test_different_engines_share_nothing():
    cases = [Case(1 + seed % 2, seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for results in pool.map(lambda case: [case.same(i % 8) for i in range(20)], cases):
            assert all(results)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_process_runs_its_parents_engine(threads):
    case = Case(threads)
    assert case.same(0)
    with multiprocessing.get_context("fork").Pool(2, inherited.append, [case]) as workers:
        assert all(workers.map_async(same_of_inherited, list(range(8)) * 3).get(SECONDS))
    assert case.same(1)


inherited: list[Case] = []  # what a worker finds in its memory


def same_of_inherited(index: int) -> bool:
    return inherited[0].same(index)


@NEEDS_PROC
def test_a_forked_process_starts_its_own_threads():
    case = Case(3)
    assert forked(lambda: case.same(0) and len(list(Path("/proc/self/task").iterdir())) == 3) == 0


@NEEDS_PROC
def test_threads_that_the_system_does_not_start():
    def task():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + (1 << 29)  # stacks of 1023 threads take more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        with pytest.raises(InputError, match="threads: found 1024, expected as many as the system starts"):
            Case(1024)
        return Case(2).same(0)

    assert forked(task) == 0


def test_a_child_of_a_child():
    case = Case(2)
    assert forked(lambda: case.same(0) and forked(partial(case.same, 1)) == 0 and case.same(2)) == 0


@pytest.mark.parametrize("runs_first", [False, True])
def test_a_forked_process_ends_with_an_engine_that_it_does_not_use(runs_first):
    case = Case(3)
    if runs_first:
        case.same(0)

    def task():
        del case.engine
        gc.collect()
        return True

    assert forked(task) == 0


def test_several_threads_of_a_forked_process():
    case = Case(2)

    def task():
        with ThreadPoolExecutor(8) as pool:
            return all(pool.map(case.same, [i % 8 for i in range(50)]))

    assert forked(task) == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_a_fork_while_another_thread_runs(threads):
    case = Case(threads, trace=True)
    stop = threading.Event()

    def run():
        while not stop.is_set():
            case.engine.run(case.batches[2])

    runner = threading.Thread(target=run)
    runner.start()
    try:
        for index in range(20):
            assert forked(partial(case.same, index % 8)) == 0
    finally:
        stop.set()
        runner.join()


def test_values_that_a_fork_cut_short_are_not_given_out():
    """Where the fork hit a run, the child has codes of two images side by side."""
    case = Case(1, trace=True)
    name = next(node.name for node in case.graph.nodes if node.name in case.engine._values)
    with pytest.raises(InputError, match="no image has been run"):
        case.engine.value(name)
    case.same(0)
    case.engine.value(name)
    case.engine._finished = False  # as a run that another thread is inside leaves it
    with pytest.raises(InputError, match="no image has been run"):
        case.engine.value(name)


class Dataset:
    """What a DataLoader's workers read: outputs of the engine, image by image."""

    def __init__(self, case: Case) -> None:
        self.case, self.images = case, np.concatenate(case.batches)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.case.engine.run(self.images[index : index + 1])[0][0]


def test_workers_of_a_dataloader():
    torch_data = pytest.importorskip("torch.utils.data")
    case = Case(2)
    case.same(0)
    loader = torch_data.DataLoader(
        Dataset(case), batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=SECONDS
    )
    found = np.concatenate([batch.numpy() for batch in loader])
    np.testing.assert_array_equal(found, np.concatenate([outputs[0] for outputs in case.expected]))
