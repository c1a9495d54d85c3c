"""Messages made of text that comes from anywhere."""

from oaq_repro.errors import printable


def test_printable():
    assert printable("conv[1]/weight é 中") == "conv[1]/weight é 中"
    assert printable("a\x1b[31m\n\tb") == "a\\x1b[31m\\n\\tb"
    assert printable("\u202e\ud800\u200b") == "\\u202e\\ud800\\u200b"
