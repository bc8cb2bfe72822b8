"""Plugins as they come: whole, broken, namesakes, too old, misspelt."""

import pytest
from sites import fresh, rows

from actionkit.doctor import plugins

site = pytest.fixture(fresh)

AGGREGATORS, READERS = "actionkit.aggregators", "actionkit.readers"
POOL = """
from actionkit.contracts import Aggregator


class Pool(Aggregator):
    '''A pool.'''

    def __init__(self, inp, *, size: int = 2):
        super().__init__()
"""


def test_a_whole_plugin_is_well(site):
    site.install("whole-pool", {AGGREGATORS: {"a": "whole_pool:Pool", "b": "whole_pool:Pool"}},
                 version="2.1", code=POOL)  # fmt: skip
    (row,) = rows(plugins.components, "whole-pool")
    assert (row.state, row.text[:17]) == ("ok", "2.1, 2 components")


@pytest.mark.parametrize(("name", "code", "cause"), [
    ("pool-of-nothing", None, "ModuleNotFoundError: No module named 'pool_of_nothing'"),
    ("pool-importing", "import not_there\n" + POOL, "No module named 'not_there'"),
    ("pool-raising", "raise OSError('no licence')\n" + POOL, "OSError: no licence"),
    ("pool-leaving", "import sys; sys.exit(3)\n" + POOL, "SystemExit: 3"),
    ("pool-garbled", "def (", "SyntaxError"),
    ("pool-renamed", POOL.replace("Pool", "Pond"), "has no attribute 'Pool'"),
    ("pool-made", "def make(size): ...\nPool = make", "defines no class Pool"),
])  # fmt: skip
def test_a_broken_plugin_is_a_fault_with_its_cause_and_cure(site, name, code, cause):
    module = name.replace("-", "_")
    points = {AGGREGATORS: {"pool": f"{module}:Pool", "pond": f"{module}:Pool"}}
    site.install(name, points, version="0.3", code=code)
    (row,) = rows(plugins.components, name)  # one cause, one row
    assert row.state == "fault"
    assert row.text.startswith("pond, pool: ")
    assert cause in row.text
    assert row.cure == f"pip install --upgrade {name}, or: pip uninstall {name}"


def test_what_is_broken_in_an_editable_install_is_installed_again_from_its_folder(site, tmp_path):
    source = tmp_path / "my pool"
    source.mkdir()
    site.editable("my-pool", source, {AGGREGATORS: {"pool": "my_pool_gone:Pool"}})
    (row,) = rows(plugins.components, "my-pool")
    assert row.cure.startswith(f"pip install -e '{source}', or: ")


def test_what_came_from_a_repository_is_installed_again_from_there(site):
    url = {"url": "https://example.org/pool", "vcs_info": {"vcs": "git", "commit_id": "1"}}
    site.install("far-pool", {AGGREGATORS: {"pool": "far_pool_gone:Pool"}}, direct_url=url)
    (row,) = rows(plugins.components, "far-pool")
    assert row.cure.startswith("pip install --upgrade git+https://example.org/pool, or: ")


def test_a_folder_of_recipes_that_is_not_there_is_a_fault(site):
    site.install("their-recipes", {"actionkit.recipes": {"theirs": "their_recipes"}})
    (row,) = rows(plugins.components, "their-recipes")
    assert (row.state, row.text) == ("fault", "theirs: there is no package their_recipes")
    (site.folder / "their_recipes").mkdir()
    (site.folder / "their_recipes" / "__init__.py").touch()
    assert rows(plugins.components, "their-recipes")[0].state == "ok"


def test_one_name_of_two_plugins_is_a_warning_with_both_full_names(site):
    for name in ("dist-a", "Dist_B"):
        site.install(name, {AGGREGATORS: {"wavelet": "x:X"}})
    (row,) = rows(plugins.names, "wavelet")
    assert row.state == "warning"
    assert row.text == "aggregator of dist-a and dist-b; the bare name is refused"
    assert row.cure == "write 'dist-a:wavelet' or 'dist-b:wavelet' in recipes"


def test_a_name_of_ours_taken_by_a_plugin_is_a_warning(site):
    site.install("mine", {AGGREGATORS: {"mean": "x:X"}, READERS: {"mean": "x:X"}})
    (row,) = rows(plugins.names, "mean")  # the reader of that name is another thing
    assert row.text == "aggregator of actionkit and mine; the bare name is actionkit's"
    assert row.cure == "write 'mine:mean' in recipes"


@pytest.mark.parametrize(("group", "name", "words", "cure"), [
    ("actionkit.aggregator", "pool", "no group", "actionkit.aggregators"),
    ("actionkit.zzz", "pool", "no group", "one of actionkit.{backbones,"),
    (AGGREGATORS, "My-Pool", "'My-Pool' is no name", "rename"),
])  # fmt: skip
def test_what_actionkit_cannot_see_is_named(site, group, name, words, cure):
    site.install("unseen", {group: {name: "x:X"}})
    (row,) = rows(plugins.groups, "unseen")
    assert row.state == "warning"
    assert words in row.text
    assert cure in row.cure


def test_a_plugin_for_another_actionkit_is_a_fault(site):
    site.install("old-pool", {AGGREGATORS: {"pool": "x:X"}}, requires=["actionkit<0.0.5,>=0.0.1"])
    (row,) = rows(plugins.needs)
    assert (row.name, row.state) == ("old-pool", "fault")
    assert "but <0.0.5,>=0.0.1 is needed" in row.text
    assert row.cure == "pip install --upgrade old-pool, or: pip install 'actionkit<0.0.5,>=0.0.1'"


def test_what_a_plugin_lacks_is_a_fault_unless_it_is_for_elsewhere(site):
    site.install("poor-pool", {AGGREGATORS: {"pool": "x:X"}}, requires=[
        "no-such-library>=2", "numpy>=1", "actionkit", "no-such; python_version < '3'",
        "no-such-extra; extra == 'dev'", "not a requirement at all",
    ])  # fmt: skip
    (row,) = rows(plugins.needs)
    assert row.text == "1.0: no-such-library>=2 is not installed"
    assert row.cure == "pip install 'no-such-library>=2'"
