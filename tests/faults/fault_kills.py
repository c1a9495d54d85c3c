"""SIGKILL, at random moments and at every kind of file, and two sweeps at once."""

import random
import subprocess

from faults.sweeping import SWEEP, assert_undisturbed, call, finish, records, start

KILLS = 20
LONGEST_S = 14.0

# Each start dies at the next of these: before a file is put in its place, and after (its temporary name goes then).
EVENTS = [
    "os.rename:known",
    "os.rename:last.ckpt",
    "os.remove:/.last.",
    "os.rename:weights.safetensors",
    "os.remove:/.weights.",
    "os.rename:metrics.json",
    "os.remove:last.ckpt",
    "os.rename:quantized.ckpt",
    "os.rename:graph.npz",
    "os.rename:alpha.png",
    "os.remove:/.overflow.",
    "os.rename:record.json",
    "os.remove:/.record.",
    "os.rename:sweeps/settings",
]


def test_kills_at_random_moments(tmp_path, reference):
    generator, kills, sweep = random.Random(0), 0, 0
    while kills < KILLS:
        results = tmp_path / str(sweep) / "results"
        while True:
            process = start(results)
            try:
                assert finish_within(process, generator.uniform(0, LONGEST_S)) == 0
                break
            except subprocess.TimeoutExpired:
                process.kill()
                finish(process)
                kills += 1
            if kills >= KILLS:
                assert call(results)[0] == 0
                break
        assert_undisturbed(results, reference)
        sweep += 1


def finish_within(process, seconds):
    process.wait(timeout=seconds)
    return finish(process)[0]


def test_kills_as_files_are_written(results, reference):
    for event in EVENTS:
        status, error = call(results, fault=f"SIGKILL:{event}")
        assert status == -9, (event, error)
    assert call(results)[0] == 0
    assert_undisturbed(results, reference)


def test_a_kill_between_figures_and_record_loses_neither(results, reference):
    assert call(results, fault="SIGKILL:os.rename:record.json")[0] == -9
    assert records(results) == {}
    assert call(results)[0] == 0
    assert_undisturbed(results, reference)


def test_two_sweeps_at_once(results, reference):
    both = [start(results) for _ in range(2)]
    assert [finish(process)[0] for process in both] == [0, 0]
    assert_undisturbed(results, reference)


def test_two_sweeps_of_which_one_dies(results, reference):
    dying, other = start(results, fault="SIGKILL:os.rename:last.ckpt"), start(results, *SWEEP[:-1], "method=int8,oaq")
    assert (finish(dying)[0], finish(other)[0]) in [(-9, 0), (0, 0)]  # 0: the other trained all that both need
    assert call(results)[0] == 0
    assert_undisturbed(results, reference)
