"""The notebooks: clean as they are kept, and every cell runs, asserts included."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
ABSOLUTE = re.compile(r"(?<![\w.~/)\]}])/(?:home|root|tmp|var|usr|opt|mnt|work|srv|data|Users)/|\b[A-Za-z]:\\|file://")
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 3


@each
def test_is_kept_clean(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    for cell in notebook.cells:
        assert cell.source.strip() and not cell.metadata, cell.id
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, cell.id


@each
def test_names_no_absolute_path(path):
    for cell in nbformat.read(path, as_version=nbformat.NO_CONVERT).cells:
        assert not ABSOLUTE.search(cell.source), cell.id


@each
def test_links_lead_somewhere(path):
    for cell in nbformat.read(path, as_version=nbformat.NO_CONVERT).cells:
        if cell.cell_type == "markdown":
            for target in LINK.findall(cell.source):
                assert (FOLDER / target).is_file(), f"{cell.id}: {target}"


@pytest.mark.slow
@each
def test_runs_and_leaves_nothing_behind(path, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the kernel's process inherits these
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    place = tmp_path / "place"
    for folder in (place, tmp_path / "temporary"):
        folder.mkdir()
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(place)}}).execute()
    assert list(place.iterdir()) == []
    assert list((tmp_path / "temporary").glob("tmp*")) == []
    figures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert figures
