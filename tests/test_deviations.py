from pathlib import Path

import pytest
import yaml
from composing import composed

from oaq_repro.deviations import Section, load_sections, render
from oaq_repro.errors import InputError
from oaq_repro.settings.composing import config_folder

ROOT = Path(__file__).parents[1]
WORDS = ROOT / "docs" / "deviations.yaml"
BASE_FIELDS = {
    "kind",
    "fine_tune",
    "settle",
    "bias_correction",
    "search",
    "pruning",
}  # of every method; their meaning is the method's own


@pytest.fixture(scope="module")
def text() -> str:
    return render(WORDS)


def test_the_committed_file_is_the_regenerated_one(text) -> None:
    assert (ROOT / "DEVIATIONS.md").read_text(encoding="utf-8") == text, "run scripts/make_deviations.py"


def test_defaults_are_those_of_the_configuration(text) -> None:
    assert f"`method.lr` ({composed('method=oaq').method.lr})" in text
    assert f"`method.interval` ({composed('data=imagenet').schedule.controller_interval})" in text
    assert "`ALPHA_CAP` (16)" in text


@pytest.fixture(scope="module")
def sections() -> list[tuple[str, Section]]:
    """With the kind of method that each is about."""
    return [(composed(*section.config).method.kind, section) for section in load_sections(WORDS)]


@pytest.mark.parametrize("method", sorted(path.stem for path in (config_folder() / "method").glob("*.yaml")))
def test_every_field_of_every_method_is_listed(method, sections) -> None:
    """In a section about that configuration, or about another one of its kind."""
    content = yaml.safe_load((config_folder() / "method" / f"{method}.yaml").read_text())
    fields = content.get("method", content)
    own = set(fields) - BASE_FIELDS
    points = [
        ".".join(str(point.field).split(".")[:2])  # a section's fields are points of their own
        for kind, section in sections
        if kind == fields["kind"]
        for point in section.points
    ]
    assert {f"method.{name}" for name in own} <= set(points)


def test_every_file_exists() -> None:
    places = {point.where for section in load_sections(WORDS) for point in section.points if point.where}
    assert places and all((ROOT / place).is_file() for place in places)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"field": "method.momentum"}, "field method.momentum: not in the configuration"),
        ({"field": "no.such"}, "field no.such: not in the configuration"),
        ({}, "expected exactly one of field, constant, where"),
        ({"field": "seed", "where": "x"}, "expected exactly one of field, constant, where"),
        ({"fields": "seed"}, "fields"),
    ],
)
def test_bad_entries(tmp_path, field, message) -> None:
    point = {"point": "p", "says": "-", "chosen": "-", "values": "-"} | field
    path = tmp_path / "deviations.yaml"
    path.write_text(yaml.safe_dump([{"title": "t", "source": "s", "config": ["method=oaq"], "points": [point]}]))
    with pytest.raises(InputError, match=message):
        render(path)
