"""What the pages name is there: links, objects, and the code that a reader would copy."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    targets = re.findall(r'\]\(([^)#]+)\)|src="([^"]+)"', page.read_text())
    local = [a or b for a, b in targets if not (a or b).startswith("http")]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_the_index_lists_all_pages():
    listed = re.findall(r"\]\((\w+\.md)\)", (ROOT / "docs" / "README.md").read_text())
    assert sorted(listed) == sorted(page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md")


def test_objects_on_the_page_of_alpha_exist():
    names = re.findall(r"`([\w.]+):([\w.]+)`", (ROOT / "docs" / "oaq.md").read_text())
    names = [(module, name) for module, name in names if "." in module]
    assert len(names) > 10
    for module, name in names:
        found = importlib.import_module(f"oaq_repro.{module}")
        for part in name.split("."):
            found = getattr(found, part)


def test_the_example_of_the_readme_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["logits"].shape == (8, 10)
