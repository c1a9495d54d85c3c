"""The audit on the terminal."""

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.integer.audit import Audit, LayerAudit, PassedOver
from oaq_repro.integer.audit_table import print_audit


def row(name, **fields):
    defaults = {
        "kind": "conv", "depth": 27, "q_max": 255, "worst_case": 1.25, "longest_block": 13, "pairs": "possible",
        "narrowest": Accumulator(block=13),
    }  # fmt: skip
    return LayerAudit(name=name, **(defaults | fields))


def test_table_and_what_is_not_in_it(capsys):
    rows = (
        row("one"),
        row("two", pairs="exact", worst_case=0.5, narrowest=NAMED["int16"]),
        row("wide", narrowest=None),
    )
    print_audit(Audit(layers=rows, passed_over=(PassedOver(name="head", op="MatMul", reason="why"),), notes=("Note.",)))
    out = capsys.readouterr().out
    assert "3 of 4 layers audited.\n" in out and "  head (MatMul): why\n" in out and "Note.\n" in out
    assert "at 16 bits: 1 of 3 layers" in out and "without VNNI: 1 of 3" in out
    assert "int16_block13" in out and "over 32 bits" in out


def test_without_rows(capsys):
    print_audit(Audit(layers=(), passed_over=(PassedOver(name="head", op="MatMul", reason="why"),)))
    out = capsys.readouterr().out
    assert out.startswith("0 of 1 layers audited.\n") and "worst" not in out


def test_names_cannot_speak_to_the_terminal(capsys):
    name = "[red]a[/red]\x1b[31m\r\n\u202eb\x07é"
    print_audit(Audit(layers=(row(name),), passed_over=(PassedOver(name=name, op=name, reason=name),)))
    out = capsys.readouterr().out
    assert not any(each in out for each in "\x1b\r\u202e\x07")
    together = "".join(line.split(" ")[1] for line in out.splitlines() if line.startswith(" ")) + out
    assert "[red]a[/red]\\x1b[31m\\r\\n\\u202eb\\x07é" in together
