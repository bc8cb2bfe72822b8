"""Names from metadata: whose they are, what to write where there are none or several."""

import subprocess
import sys
from pathlib import Path

import pytest

from actionkit import registry
from actionkit.registry import BrokenComponentError, UnknownComponentError


def install(folder: Path, name: str, points: dict[str, dict[str, str]], version="1.0") -> None:
    """An installed distribution: its dist-info folder."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        line
        for group, names in points.items()
        for line in (f"[{group}]", *(f"{n} = {target}" for n, target in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on sys.path; the registry is read afresh before and after."""
    monkeypatch.syspath_prepend(tmp_path)
    registry.entries.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    registry.entries.cache_clear()


AGGREGATORS = "actionkit.aggregators"


def test_our_own_components_come_by_entry_points():
    entry = registry.find("aggregators", "lstm")
    assert entry[:4] == (
        "aggregators", "lstm", "actionkit.aggregators.recurrent:LSTM", "actionkit",
    )  # fmt: skip
    assert registry.load(entry).__name__ == "LSTM"


def test_every_registered_component_of_ours_can_be_imported():
    own = [e for e in registry.entries() if e.distribution == "actionkit" and e.group != "recipes"]
    assert own
    for entry in own:
        registry.load(entry)


def test_names_are_the_grammar_s():
    assert {e.group for e in registry.entries()} <= set(registry.GROUPS)


def test_metadata_are_read_once(site, monkeypatch):
    calls = []
    real = registry.importlib.metadata.distributions
    monkeypatch.setattr(
        registry.importlib.metadata, "distributions", lambda: calls.append(1) or real()
    )
    for _ in range(3):
        registry.find("aggregators", "lstm")
        registry.find("backbones", "timm")
    assert len(calls) == 1


def test_a_plugin_is_found_by_name_and_by_distribution(site):
    install(site, "Their.Dist", {AGGREGATORS: {"bilstm": "theirs.lstm:BiLSTM"}}, "2.3")
    entry = registry.find("aggregators", "bilstm")
    assert entry == ("aggregators", "bilstm", "theirs.lstm:BiLSTM", "their-dist", "2.3")
    for owner in ("their-dist", "Their.Dist", "their_dist", "THEIR-.-DIST"):
        assert registry.find("aggregators", f"{owner}:bilstm") == entry


def test_our_name_wins_and_theirs_stays_reachable(site):
    install(site, "a-first", {AGGREGATORS: {"lstm": "theirs:LSTM"}})
    assert registry.find("aggregators", "lstm").distribution == "actionkit"
    assert registry.find("aggregators", "a-first:lstm").target == "theirs:LSTM"
    assert registry.find("aggregators", "actionkit:lstm").distribution == "actionkit"


def test_two_plugins_with_one_name_are_a_mistake_only_of_who_uses_the_bare_name(site):
    install(site, "dist-a", {AGGREGATORS: {"gated": "a:GRU", "other": "a:Other"}})
    install(site, "Dist_B", {AGGREGATORS: {"gated": "b:GRU"}})
    assert registry.find("aggregators", "other").target == "a:Other"
    assert registry.find("aggregators", "dist-b:gated").target == "b:GRU"
    with pytest.raises(UnknownComponentError) as caught:
        registry.find("aggregators", "gated")
    assert str(caught.value) == (
        "aggregator 'gated' comes from 2 distributions; 'use: dist-a:gated' or 'use: dist-b:gated'"
    )


def test_the_first_copy_of_a_distribution_on_the_path_counts(site, tmp_path_factory, monkeypatch):
    install(site, "twice", {AGGREGATORS: {"gated": "old:GRU"}}, "1.0")
    nearer = tmp_path_factory.mktemp("nearer")
    install(nearer, "twice", {AGGREGATORS: {"gated": "new:GRU"}}, "2.0")
    monkeypatch.syspath_prepend(nearer)
    registry.entries.cache_clear()
    entry = registry.find("aggregators", "gated")
    assert (entry.target, entry.version) == ("new:GRU", "2.0")


def test_near_names_are_named_once(site):
    for owner in ("dist-a", "dist-b"):
        install(site, owner, {AGGREGATORS: {"wavelet": f"{owner}:Wavelet"}})
    with pytest.raises(UnknownComponentError, match=r"Did you mean 'wavelet'\?$"):
        registry.find("aggregators", "wavelt")


def test_groups_of_others_are_left_alone(site):
    install(site, "odd", {"backbones": {"x": "odd:X"}, "actionkit.unknown": {"x": "odd:X"}})
    assert not [e for e in registry.entries() if e.distribution == "odd"]


@pytest.mark.parametrize(
    ("groups", "use", "words"),
    [
        ("aggregators", "lsmt", "there is no aggregator 'lsmt'. Did you mean 'lstm'"),
        ("fusions", "lstm", "there is no fusion 'lstm'; 'lstm' is one of the aggregators"),
        ("tasks", "zzzzzz", "there is no task 'zzzzzz'; registered are: recognition"),
        ("tasks", "no-name", "only names of registered components can stand here"),
        ("callbacks", "zzzzzz", "registered are: none"),
        (("backbones", "aggregators"), "lsmt", "there is no backbone or aggregator 'lsmt'."),
        ("aggregators", "nobody:lstm", "there is no aggregator 'nobody:lstm'. Did you mean 'lstm'"),
    ],
)
def test_unknown_names_get_a_cure(groups, use, words):
    with pytest.raises(UnknownComponentError) as caught:
        registry.find(groups, use)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "use",
    [
        "os.system", "os:system", "actionkit.contracts:Part", "actionkit.aggregators.pooling:Mean",
        "../mean", "a/b", "", ":", "mean ", "builtins:exec", "Mean", "theirs:broken:lstm",
    ],
)  # fmt: skip
def test_what_is_no_registered_name_is_refused(use):
    with pytest.raises(UnknownComponentError, match="there is no aggregator"):
        registry.find("aggregators", use)


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("x = ", "SyntaxError"),
        ("", "AttributeError"),
    ],
)
def test_a_broken_plugin_hurts_only_who_names_it(site, source, cause):
    install(site, "third", {AGGREGATORS: {"bilstm": "third_plugin:BiLSTM"}}, "1.2.0")
    (site / "third_plugin.py").write_text(source)
    sys.modules.pop("third_plugin", None)
    assert registry.find("aggregators", "lstm")
    with pytest.raises(BrokenComponentError) as caught:
        registry.load(registry.find("aggregators", "bilstm"))
    text = str(caught.value)
    assert text.startswith(
        "'bilstm' comes from third 1.2.0 (third_plugin:BiLSTM) and could not be imported: "
    )
    assert cause in text


def test_reading_the_registry_imports_no_component_and_no_torch(site):
    install(site, "loud", {AGGREGATORS: {"loud": "loud_plugin:Loud"}})
    (site / "loud_plugin.py").write_text("raise SystemExit('imported')")
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from actionkit import registry\n"
        "assert registry.find('aggregators', 'loud') in registry.entries()\n"
        "assert not {'torch', 'timm', 'omegaconf', 'loud_plugin'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
