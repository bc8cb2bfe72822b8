"""Installed metadata against the source they were made from."""

import sys

import pytest
from sites import fresh, rows

import actionkit
from actionkit.doctor import installs

site = pytest.fixture(fresh)

AGGREGATORS, HEADS = "actionkit.aggregators", "actionkit.heads"
NOW = {AGGREGATORS: {"pool": "mine:Pool", "pond": "mine:Pond"}, HEADS: {"deep": "mine:Deep"}}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "my source"
    folder.mkdir()
    return folder


def write(source, points, version='version = "1.0"', dynamic=""):
    lines = ["[project]", 'name = "mine"', version, dynamic]
    for group, names in points.items():
        lines += [f'[project.entry-points."{group}"]', *(f'{n} = "{t}"' for n, t in names.items())]
    (source / "pyproject.toml").write_text("\n".join(lines) + "\n")


def test_an_install_that_says_what_its_source_says_is_well(site, source):
    write(source, NOW)
    site.editable("mine", source, NOW)
    (row,) = rows(installs.editables, "mine")
    assert (row.state, row.text) == ("ok", f"1.0, editable, from {source}")


@pytest.mark.parametrize(("installed", "words"), [
    ({AGGREGATORS: {"pool": "mine:Pool"}}, "; not installed: aggregators pond, heads deep"),
    ({}, "; not installed: aggregators pond, pool, heads deep"),
    ({**NOW, "actionkit.losses": {"old": "mine:Old"}}, "; not in pyproject.toml: losses old"),
    ({**NOW, HEADS: {"deep": "before:Deep"}}, "; moved: heads deep"),
    ({AGGREGATORS: NOW[AGGREGATORS], HEADS: {"flat": "mine:Flat"}},
     "; not installed: heads deep; not in pyproject.toml: heads flat"),
])  # fmt: skip
def test_components_added_removed_or_moved_since_are_a_fault(site, source, installed, words):
    write(source, NOW)
    site.editable("mine", source, installed)
    (row,) = rows(installs.editables, "mine")
    assert row.state == "fault"
    assert row.text == f"pyproject.toml has changed since it was installed{words}"
    assert row.cure == f"pip install -e '{source}'"


def test_another_version_is_a_warning(site, source):
    write(source, NOW, 'version = "2.0"')
    site.editable("mine", source, NOW)
    (row,) = rows(installs.editables, "mine")
    assert (row.state, row.text) == ("warning", "installed as 1.0, but its source is 2.0")
    assert row.cure == f"pip install -e '{source}'"


def test_what_a_build_script_fills_in_is_not_compared(site, source):
    write(source, {}, "", 'dynamic = ["version", "entry-points"]')
    site.editable("mine", source, NOW)
    assert rows(installs.editables, "mine")[0].state == "ok"


def test_a_source_that_is_gone_is_a_fault(site, source):
    site.editable("mine", source, NOW)
    source.rmdir()
    (row,) = rows(installs.editables, "mine")
    assert row.state == "fault"
    assert str(source) in row.text
    assert row.cure.endswith("pip uninstall mine")


def test_packages_that_are_no_plugins_are_nobody_s_business(site, source, tmp_path):
    write(source, {"console_scripts": {"other": "other:main"}})
    site.editable("other", source)
    site.editable("gone", tmp_path / "gone")
    assert not rows(installs.editables, "other") + rows(installs.editables, "gone")


def test_without_a_reader_of_toml_it_says_so(site, source, monkeypatch):
    write(source, NOW)
    site.editable("mine", source, NOW)
    monkeypatch.setattr(installs, "_toml", lambda: None)
    (row,) = rows(installs.editables, "mine")
    assert (row.state, row.cure) == ("warning", "pip install tomli")


def test_leftovers_of_a_removed_package_are_passed_over(site):
    (site.folder / "gone-1.0.dist-info").mkdir()
    (site.folder / "gone-1.0.dist-info" / "RECORD").touch()
    for check in (installs.editables, installs.copies, installs.code_in_use):
        assert "gone" not in {row.name for row in rows(check)}


def test_a_second_copy_behind_the_first_is_a_warning(site, tmp_path, monkeypatch):
    site.install("mine", NOW, version="2.0")
    first = site.folder
    site.folder = tmp_path / "farther"
    site.folder.mkdir()
    site.install("mine", NOW, version="1.0")
    site.install("unrelated", version="1.0")
    monkeypatch.setattr(sys, "path", [str(first), str(site.folder), str(first), *sys.path])
    (row,) = rows(installs.copies, "mine")
    assert row.state == "warning"
    assert row.text == f"2.0 in {first} hides 1.0 in {site.folder}"
    assert row.cure.startswith("pip uninstall mine")


def test_code_of_another_folder_than_the_installed_one_is_a_warning(tmp_path, monkeypatch):
    assert not rows(installs.code_in_use)
    monkeypatch.setattr(actionkit, "__file__", str(tmp_path / "actionkit" / "__init__.py"))
    (row,) = rows(installs.code_in_use)
    assert row.text.startswith(f"the code in use is {tmp_path}, but what is installed is ")
    assert row.cure.startswith(f"pip install -e {tmp_path}")
