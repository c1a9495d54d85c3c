"""Loops are found in assembly and counted; the page says that it is a model."""

import shutil
from pathlib import Path

import pytest

from oaq_repro.benchmark import arm
from oaq_repro.errors import InputError

MISSING = [tool for tool in (arm.COMPILER, arm.ANALYSER) if shutil.which(tool) is None]
WITH_TOOLS = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed")
ASSEMBLY = """
\t.type\tkernel, %function
kernel:
.LFB1:
\tmov\tx0, 0
.L2:
\tldr\tq9, [x3]
\tsmull\tv1.8h, v2.8b, v3.8b
\tsmull2\tv4.8h, v2.16b, v3.16b
.L3:
\tldr\tq2, [x1]
\tsmlal\tv1.8h, v2.8b, v3.8b
\tsmlal2\tv4.8h, v2.16b, v3.16b
\tcmp\tx0, x2
\tbne\t.L3
\tsadalp\tv5.4s, v1.8h
\tsubs\tx4, x4, 1
\tb.ne\t.L2
.L5:
\tldr\tq7, [x1]
\tcbnz\tx5, .L5
\tcbz\tx6, .L9
.L9:
\tret
other:
\tsmlal\tv0.4s, v2.4h, v3.4h
\tret
"""


def test_loops_are_stretches_with_a_branch_back():
    functions = arm.functions_of(ASSEMBLY)
    assert set(functions) == {"kernel", "other"}
    lines = functions["kernel"]
    found = [(lines[first], lines[last].split("\t")[1]) for first, last in arm.loops_in(lines)]
    assert found == [(".L3:", "bne"), (".L2:", "b.ne"), (".L5:", "cbnz")]
    assert arm.loops_in(functions["other"]) == []


def test_a_block_of_steps_has_the_inner_loop_for_each_but_the_first():
    functions = arm.functions_of(ASSEMBLY)
    whole = arm._loop_of(functions, "kernel", 1)
    assert (whole.products, len(whole.lines)) == (16, 5)
    block = arm._loop_of(functions, "kernel", 4)
    assert (block.products, len(block.lines)) == (16 * 4, 3 + 5 * 3 + 3)
    assert sum("sadalp" in line for line in block.lines) == 1


def test_products_are_lanes_of_the_result():
    assert arm._loop(["\tsmlal\tv0.4s, v2.4h, v3.4h", "\tsmull2\tv1.8h, v2.16b, v3.16b"]).products == 12
    assert arm._loop(["\tsmull\tx1, w2, w3", "\tmla\tv0.4s, v1.4s, v2.4s"]).products == 0


def test_the_page_says_what_it_is_and_puts_like_cores_together():
    rates = {core: {"16 bit": 6.0, arm.USUAL: 4.0} for core in ("cortex-a53", "kryo")}
    rates["apple-a7"] = {"16 bit": 9.0, arm.USUAL: 9.0}
    page = arm.markdown(rates, arm.Tools("cc 1", "mca 2", frozenset(rates)))
    assert "A model, not a measurement: nothing here was run on these cores" in page
    assert "cc 1" in page and "mca 2" in page
    assert page.splitlines()[-2:] == ["| Cortex-A53, Kryo | 6.00 | 4.00 | 1.50 |", "| Apple A7 | 9.00 | 9.00 | 1.00 |"]


def test_a_missing_tool_is_named(monkeypatch):
    monkeypatch.setattr(arm.shutil, "which", lambda name: None if name == arm.ANALYSER else name)
    with pytest.raises(InputError, match="found no llvm-mca, expected it on the path .Debian's package llvm"):
        arm.find_tools()


@pytest.mark.slow
@WITH_TOOLS
def test_the_loops_of_the_kernels(tmp_path):
    """16 channels meet 3 pixels (2 in folds of several steps) in steps of 4 codes, the usual way 4 rows 4 columns."""
    products = {name: loop.products for name, loop in arm.compiled_loops().items()}
    folds = {f"fold {steps}": 16 * 2 * 4 * steps for steps in (2, 4, 8, 16)}
    assert products == {"16 bit": 16 * 3 * 4, arm.USUAL: 4 * 4 * 16, "fold 1": 16 * 3 * 4, "exact": 16 * 2, **folds}
    page = Path(*arm.run(tmp_path)).read_text()
    assert "| Cortex-A53" in page and page.count("|---:") == 9


@WITH_TOOLS
def test_a_loop_of_one_chain_takes_its_latency():
    """Sums that wait for one another: four cycles on a Cortex-A57, one where eight of them take turns."""
    one = arm._loop(["\tsmlal\tv0.8h, v30.8b, v31.8b"])
    assert arm.cycles_of(arm._loop([f"\tsmlal\tv{i}.8h, v30.8b, v31.8b" for i in range(8)]), "cortex-a57") < 9
    alone = arm.cycles_of(one, "cortex-a53")
    assert alone >= 1 and arm.cycles_of(arm._loop([*one.lines] * 4), "cortex-a53") == pytest.approx(4 * alone, rel=0.1)
