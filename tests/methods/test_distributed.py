import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("ddp_script.py")


@pytest.mark.slow
def test_two_processes_count_what_one_counts_on_the_whole_batch(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1]), "OMP_NUM_THREADS": "1"}
    seen = {}
    for processes in (1, 2):
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(processes), str(tmp_path)],
            env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        for rank in range(processes):
            seen[processes, rank] = json.loads((tmp_path / f"{processes}-{rank}.json").read_text())
    alone, first, second = seen[1, 0], seen[2, 0], seen[2, 1]
    assert alone["batch_size"] == first["batch_size"] == 8
    assert sum(map(sum, alone["events"].values())) > 0 and alone["shares"]
    assert any(len(set(alphas)) > 2 for alphas in alone["alphas"].values())  # channels have moved apart
    for quantity in ("events", "peaks", "shares", "alphas", "activations"):
        assert alone[quantity] == first[quantity] == second[quantity]
