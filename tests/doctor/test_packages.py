"""Dependencies: there, new enough, alone, importable."""

import pytest
from sites import fresh, rows

from actionkit.doctor import packages

site = pytest.fixture(fresh)


def test_what_is_missing_or_too_old_is_a_fault_with_its_pip_line(site):
    needs = ["numpy>=999", "no-such-library<3,>=2", "torch>=2"]
    site.install("actionkit", version="9.0", requires=needs)
    old, missing, versions = rows(packages.requirements)
    assert (old.name, old.state, old.cure) == ("numpy", "fault", "pip install 'numpy>=999'")
    assert old.text.endswith("but >=999 is needed")
    assert missing.text == "no-such-library<3,>=2 is not installed"
    assert missing.cure == "pip install 'no-such-library<3,>=2'"
    assert versions.state == "ok"
    assert versions.text.startswith("torch ")
    assert "numpy" not in versions.text


def test_ours_are_met_here():
    (row,) = rows(packages.requirements)
    assert {"torch", "lightning", "av"} <= set(row.text.replace(",", "").split())


def test_an_actionkit_that_is_not_installed_is_a_fault(monkeypatch):
    monkeypatch.setattr(packages.installed, "concerned", dict)
    (row,) = rows(packages.requirements)
    assert (row.state, row.cure) == ("fault", "pip install -e /path/to/actionkit")


def test_two_packages_with_one_module_are_a_warning_that_keeps_the_one_we_need(site):
    before = rows(packages.namesakes, "cv2")
    site.install("opencv_python", top="cv2")
    site.install("decord2", top="decord")
    (row,) = rows(packages.namesakes, "cv2")
    assert not before
    assert row.state == "warning"
    assert row.text.startswith("opencv-python and opencv-python-headless both bring the module cv2")
    assert row.cure == (
        "pip uninstall -y opencv-python opencv-python-headless; pip install opencv-python-headless"
    )


def test_a_library_that_cannot_be_imported_is_a_fault(site, monkeypatch):
    (site.folder / "no_good.py").write_text("raise ImportError('libGL.so.1: cannot open')")
    names = {"no_good": "no-good", "numpy": "numpy", "not_there": "x", "no_parent.child": "x"}
    monkeypatch.setattr(packages, "MODULES", names)
    bad, good = rows(packages.imports)
    assert bad.name == "no_good"
    assert bad.text == "cannot be imported: ImportError: libGL.so.1: cannot open"
    assert bad.cure == "pip install --upgrade --force-reinstall no-good"
    assert good.text == "numpy"
