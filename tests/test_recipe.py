"""A recipe's text: parents, overrides, origins, and what is refused."""

# ruff: noqa: E501  one case a line

import copy
import os
import subprocess
import sys

import pytest
from recipes_for_tests import problems, write

from actionkit import registry
from actionkit.recipe import MAX_NODES, RecipeError, load, merge

# ------------------------------------------------------------------------------------- finding


def test_a_recipe_is_a_path_or_a_name():
    ours = load("two_stream")
    assert ours.name == "two_stream"
    assert ours.values["name"] == "two_stream"
    assert load("actionkit:two_stream").values == ours.values
    assert (
        load("ucf101/two_stream")
        .place(("name",))
        .rpartition(":")[0]
        .endswith("ucf101/two_stream.yaml")
    )


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("{folder}/recip.yaml", "there is no such file. Did you mean {folder}/recipe.yaml?"),
        ("{folder}/recipe", "Did you mean {folder}/recipe.yaml?"),
        ("{folder}/nowhere/x.yaml", "there is no such file. Look at the path"),
        ("{folder}/", "this is a folder, not a file."),
        ("two_strem", "no recipe goes by this name. Did you mean two_stream"),
        ("nobody:two_stream", "no recipe goes by this name."),
        ("ucf101/lrc", "Did you mean ucf101/lrcn or"),
    ],
)
def test_recipes_that_are_not_there(tmp_path, asked, words):
    write(tmp_path, "a: 1")
    with pytest.raises(RecipeError) as caught:
        load(asked.format(folder=tmp_path))
    assert words.format(folder=tmp_path) in str(caught.value)
    assert str(caught.value).startswith(asked.format(folder=tmp_path))


def test_a_plugin_brings_recipes(tmp_path, monkeypatch):
    write(tmp_path, "a: 1", "their_recipes/__init__.py")
    write(tmp_path, "a: 1\n", "their_recipes/wave.yaml")
    write(tmp_path, "a: theirs\n", "their_recipes/two_stream.yaml")
    monkeypatch.syspath_prepend(tmp_path)
    entry = registry.Entry("recipes", "all", "their_recipes", "their-dist", "1")
    monkeypatch.setattr(registry, "entries", lambda: (entry,))
    assert load("wave").values == {"a": 1}
    assert load("Their_Dist:two_stream").values == {"a": "theirs"}
    assert load("two_stream").values != {"a": "theirs"}
    child = write(tmp_path, "extends: their-dist:wave\nb: 2\n")
    assert load(child).values == {"a": 1, "b": 2}
    assert "their_recipes" not in sys.modules


# ------------------------------------------------------------------------------- not good YAML


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb: 2\na: 3\n", "recipe.yaml:3: not valid YAML: found duplicate key a"),
        ("a:\n  b: 1\n  c:\n    b: 2\n    b: 3", "recipe.yaml:5: not valid YAML: found duplicate"),
        ("a:\n\tb: 1\n", "recipe.yaml:2: not valid YAML: found character '\\t'"),
        ("a: 1\nb: [1, 2\n", "recipe.yaml:3: not valid YAML: "),
        ("a: 1\nb: *nobody\n", "recipe.yaml:2: not valid YAML: found undefined alias"),
        ("a: 1\n---\nb: 2\n", "recipe.yaml:2: not valid YAML: "),
        ("# a list\n- a\n- b\n", "recipe.yaml:2: expected a map with data, model, loss ..."),
        ("lstm", "recipe.yaml:1: expected a map"),
        ("a: 1\n{{x: 1}}: 2\n", "recipe.yaml:2: not valid YAML: "),
        ("{{x: 1}: 2}", "recipe.yaml:1: not valid YAML: found unhashable key"),
        ("a: 1\nb: 0x_\n", "recipe.yaml:1: not valid YAML: invalid literal"),
        ("a: 1\nb: =\n", "b (recipe.yaml:2): the tag value is refused"),
        ("a: 1\nb: \x07\n", "recipe.yaml:1: not valid YAML: "),
        ("a: 1\nb:\n  c: '${oc.env:'\n", "recipe.yaml:3: b.c is not closed; only ${key.path}"),
        ("~: 3\n", "recipe.yaml"),
        ("a: " + "[" * 5000 + "]" * 5000, "recipe.yaml:1: "),
        ("a: &x {b: *x}\n", "recipe.yaml:1: is too large"),
    ],
)
def test_broken_text_is_a_sentence_with_a_line(tmp_path, text, sentence):
    (found,) = problems(tmp_path, text)
    assert found.startswith(sentence)


def test_an_empty_recipe_has_a_line(tmp_path):
    for text in ("", "# nothing\n", "---\n"):
        tree = load(write(tmp_path, text))
        assert tree.values == {}
        assert tree.place(("data",)) == f"{tmp_path}/recipe.yaml:1"


def test_a_file_that_is_no_utf8(tmp_path):
    file = tmp_path / "latin.yaml"
    file.write_bytes("a: 1\nb: caf\xe9\n".encode("latin-1"))
    with pytest.raises(RecipeError) as caught:
        load(file)
    assert str(caught.value) == f"{file}:2: is not UTF-8 text; save it as UTF-8"


def test_a_byte_order_mark_is_no_harm(tmp_path):
    file = tmp_path / "windows.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    tree = load(file)
    assert tree.values == {"a": 1, "b": 2}
    assert tree.place(("b",)) == f"{file}:2"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path):
    file = write(tmp_path, "a: 1")
    file.chmod(0)
    with pytest.raises(RecipeError, match="cannot be read: Permission denied"):
        load(file)


# ------------------------------------------------------------------------------------- attacks


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system", "!!python/name:os.system", "!!python/module:os",
        "!!python/object/new:os.system", "!!python/tuple", "!include", "!!binary", "!!set", "!!omap",
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["value", "inside", "root", "key"])
def test_tags_are_refused_and_run_nothing(tmp_path, tag, where):
    sentinel = tmp_path / "sentinel"
    call = f"{tag} ['touch {sentinel}']"
    text = {
        "value": f"a: 1\nb: {call}\n",
        "inside": f"a:\n  b:\n    - 1\n    - {call}\n",
        "root": f"{tag}\na: ['touch {sentinel}']\n",
        "key": f"a: 1\n? {call}\n: 3\n",
    }[where]
    (found,) = problems(tmp_path, text)
    assert "recipe.yaml:" in found
    assert "refused; write plain values" in found or "not valid YAML" in found
    assert not sentinel.exists()
    (found,) = problems(tmp_path, "a: 1", f"a={call}")
    assert found.startswith("a (command line): ")
    assert found.count("is not a value") == 1
    assert not sentinel.exists()


def test_alias_bombs_are_refused(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join(['*a' + str(i - 1)] * 10)}]" for i in range(1, 10)]
    (found,) = problems(tmp_path, "\n".join(lines))
    assert found.startswith("recipe.yaml:")
    assert f"is too large: more than {MAX_NODES} values" in found


def test_harmless_aliases_and_merge_keys_work(tmp_path):
    text = "a: &x {b: 1, c: [2]}\nd: *x\ne:\n  <<: *x\n  b: 3\n"
    assert load(write(tmp_path, text)).values == {
        "a": {"b": 1, "c": [2]}, "d": {"b": 1, "c": [2]}, "e": {"b": 3, "c": [2]},
    }  # fmt: skip


def test_dates_and_numbers_are_read_as_omegaconf_does(tmp_path):
    values = load(write(tmp_path, "a: 2024-01-31\nb: 3e-4\nc: 010\nd: on\ne: .inf\n")).values
    assert values == {"a": "2024-01-31", "b": 3e-4, "c": 8, "d": True, "e": float("inf")}


# ------------------------------------------------------------------------------------- extends


@pytest.mark.parametrize(
    ("base", "delta", "merged"),
    [
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": 4}}, {"a": 1, "b": {"c": 4, "d": 3}}),
        ({"a": [1, 2, 3]}, {"a": [4]}, {"a": [4]}),
        ({"a": {"b": 1}}, {"a": 3}, {"a": 3}),
        ({"a": 3}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}, {"a": {"c": 2}}),
        ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
        ({"h": {"use": "lstm", "n": 3}}, {"h": {"n": 4}}, {"h": {"use": "lstm", "n": 4}}),
        ({"h": {"use": "lstm", "n": 3}}, {"h": {"use": "lstm", "m": 1}}, {"h": {"use": "lstm", "n": 3, "m": 1}}),
        ({"h": {"use": "lstm", "n": 3}}, {"h": {"use": "mean"}}, {"h": {"use": "mean"}}),
        ({"h": {"use": "lstm", "n": 3}}, {"h": "mean"}, {"h": "mean"}),
        ({"h": {"use": "lstm", "n": 3}}, {"h": "lstm"}, {"h": "lstm"}),
        ({"h": "lstm"}, {"h": {"use": "lstm", "n": 3}}, {"h": {"use": "lstm", "n": 3}}),
        ({"h": {"verb": "a", "noun": "b"}}, {"h": {"use": "a"}}, {"h": {"use": "a"}}),
        ({"h": {"verb": "a"}}, {"h": {"noun": "b"}}, {"h": {"verb": "a", "noun": "b"}}),
    ],
)  # fmt: skip
def test_merge(tmp_path, base, delta, merged):
    before = copy.deepcopy((base, delta))
    assert merge(base, delta) == merged
    assert (base, delta) == before
    write(tmp_path, base, "base.yaml")
    assert load(write(tmp_path, {"extends": "base.yaml", **delta})).values == merged


def test_parents_are_relative_to_their_child_and_two_hops_are_fine(tmp_path):
    write(tmp_path, "a: 1\nb: 1\nc: 1\n", "base/deep/grand.yaml")
    write(tmp_path, "extends: deep/grand.yaml\nb: 2\nc: 2\n", "base/parent.yaml")
    tree = load(write(tmp_path, "extends: ../base/parent.yaml\nc: 3\n", "here/child.yaml"))
    assert tree.values == {"a": 1, "b": 2, "c": 3}
    places = {key: tree.place((key,)).rpartition(os.sep)[2] for key in "abc"}
    assert places == {"a": "grand.yaml:1", "b": "parent.yaml:2", "c": "child.yaml:2"}


def test_a_parent_by_name(tmp_path):
    tree = load(write(tmp_path, "extends: two_stream\nname: mine\n"))
    assert tree.values["name"] == "mine"
    assert tree.values["model"] == load("two_stream").values["model"]
    assert tree.place(("model", "fusion")).split(":")[0].endswith("two_stream.yaml")


def test_three_hops_are_refused(tmp_path):
    write(tmp_path, "a: 1", "d.yaml")
    for child, parent in ("cd", "bc"):
        write(tmp_path, f"extends: {parent}.yaml", f"{child}.yaml")
    (found,) = problems(tmp_path, "# three\nextends: b.yaml")
    assert found == "extends (c.yaml:1): more than two hops: recipe.yaml -> b.yaml -> c.yaml"


def test_a_circle_of_parents_is_refused(tmp_path):
    write(tmp_path, "extends: recipe.yaml", "b.yaml")
    for text in ("extends: recipe.yaml", "extends: b.yaml"):
        (found,) = problems(tmp_path, text)
        assert "extends (" in found
        assert "more than two hops" in found


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nextends: [a.yaml, b.yaml]", "extends (recipe.yaml:2): expected one file or name"),
        (
            "a: 1\nextends: bass.yaml",
            "extends (recipe.yaml:2): there is no such file. Did you mean",
        ),
        (
            "extends: two_strem",
            "extends (recipe.yaml:1): no recipe goes by this name. Did you mean",
        ),
        ("extends: broken.yaml", "broken.yaml:2: not valid YAML"),
        ("extends: list.yaml", "list.yaml:1: expected a map"),
    ],
)
def test_parents_that_cannot_be_had(tmp_path, text, sentence):
    write(tmp_path, "a: 1", "base.yaml")
    write(tmp_path, "a: 1\na: 2", "broken.yaml")
    write(tmp_path, "- 1", "list.yaml")
    (found,) = problems(tmp_path, text)
    assert found.startswith(sentence)


def test_places_of_what_a_child_replaced_are_gone(tmp_path):
    write(tmp_path, "head:\n  use: linear\n  dropout: 1\nlist: [1,\n 2,\n 3]\n", "base.yaml")
    child = "extends: base.yaml\n\nhead:\n  dropout: 2\n"
    tree = load(write(tmp_path, child))
    assert tree.place(("head", "use")).endswith("base.yaml:2")
    assert tree.place(("head", "dropout")).endswith("recipe.yaml:4")
    assert tree.place(("list", 2)).endswith("base.yaml:6")
    tree = load(write(tmp_path, "extends: base.yaml\nhead: lineer\nlist: [4]\n"))
    assert ("head", "use") not in tree.origins
    assert tree.place(("head", "use")).endswith("recipe.yaml:2")
    assert tree.place(("list", 2)).endswith("recipe.yaml:3")


# ----------------------------------------------------------------------------------- overrides

NODE = "head: {use: lstm, hidden: 3}\nbare: mean\nparts: [mean, {use: lstm, hidden: 4}]\nlr: 1\n"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("3e-4", 3e-4), ("3", 3), ("true", True), ("on", True), ("[1, 2]", [1, 2]),
        ("{a: 1}", {"a": 1}), ("{a: {b: [c]}}", {"a": {"b": ["c"]}}), ("text", "text"),
        ("a=b", "a=b"), ("/x/y=z/", "/x/y=z/"), ("'3'", "3"), ('"on"', "on"), ("a b", "a b"),
        ("1_000", 1000), (".5", 0.5), ("a: b", {"a": "b"}),
    ],
)  # fmt: skip
def test_values_are_parsed_as_omegaconf_does(tmp_path, override, value):
    tree = load(write(tmp_path, NODE), [f"lr={override}"])
    assert tree.values["lr"] == value
    assert type(tree.values["lr"]) is type(value)
    assert tree.place(("lr",)) == "command line"
    assert not tree.problems


@pytest.mark.parametrize("override", ["lr=null", "lr=~", "lr="])
def test_null_removes(tmp_path, override):
    assert "lr" not in load(write(tmp_path, NODE), [override]).values


def test_use_comes_first_whatever_the_order(tmp_path):
    for overrides in (["head.use=gru", "head.size=5"], ["head.size=5", "head.use=gru"]):
        tree = load(write(tmp_path, NODE), overrides)
        assert tree.values["head"] == {"use": "gru", "size": 5}
        assert tree.place(("head", "use")) == tree.place(("head", "size")) == "command line"


def test_an_outer_use_comes_before_an_inner_one(tmp_path):
    text = "head: {use: windows, part: {use: lstm, hidden: 3}}\n"
    overrides = ["head.part.use=gru", "head.part.size=2", "head.use=other"]
    tree = load(write(tmp_path, text), overrides)
    assert tree.values == {"head": {"use": "other", "part": {"use": "gru", "size": 2}}}


def test_the_same_use_keeps_the_options(tmp_path):
    tree = load(write(tmp_path, NODE), ["head.use=lstm"])
    assert tree.values["head"] == {"use": "lstm", "hidden": 3}


def test_a_key_that_ends_in_use_is_no_use(tmp_path):
    tree = load(write(tmp_path, NODE), ["lr=2", "head.reuse=1", "head.reuse=2"])
    assert tree.values["head"] == {"use": "lstm", "hidden": 3, "reuse": 2}


def test_later_overrides_win(tmp_path):
    assert load(write(tmp_path, NODE), ["lr=2", "lr=3"]).values["lr"] == 3


def test_bare_names_become_nodes(tmp_path):
    tree = load(write(tmp_path, NODE), ["bare.size=3", "parts.0.size=4", "parts.1.hidden=5"])
    assert tree.values["bare"] == {"use": "mean", "size": 3}
    assert tree.values["parts"] == [{"use": "mean", "size": 4}, {"use": "lstm", "hidden": 5}]
    assert tree.place(("parts", 1, "hidden")) == "command line"
    assert tree.place(("parts", 1, "use")).endswith("recipe.yaml:3")


def test_places_of_lists(tmp_path):
    tree = load(write(tmp_path, NODE), ["parts.0=max", "parts.1.use=gru"])
    assert tree.values["parts"] == ["max", {"use": "gru"}]
    assert tree.place(("parts", 0)) == "command line"
    assert load(write(tmp_path, NODE), ["parts=[max]"]).values["parts"] == ["max"]


def test_new_keys_are_made_and_come_from_the_command_line(tmp_path):
    tree = load(write(tmp_path, NODE + "empty:\n"), ["new.inner.key=3", "empty.x=1"])
    assert tree.values["new"] == {"inner": {"key": 3}}
    assert tree.values["empty"] == {"x": 1}
    for key in (("new",), ("new", "inner"), ("new", "inner", "key"), ("empty", "x")):
        assert tree.place(key) == "command line"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("parts.2=max", "parts.2 (command line): the list has the places 0 to 1, not '2'"),
        ("parts.5.hidden=3", "parts.5.hidden (command line): the list has the places 0 to 1"),
        ("parts.-1=max", "parts.-1 (command line): the list has the places 0 to 1"),
        ("parts.first=max", "parts.first (command line): the list has the places 0 to 1"),
        ("lr.x=3", "lr.x (command line): there is a plain value at 'lr', which has no keys"),
        (
            "head.hidden.x=3",
            "head.hidden.x (command line): there is a plain value at 'head.hidden'",
        ),
        ("lr", "lr (command line): expected an override of the form key.path=value"),
        ("=3", "=3 (command line): expected an override of the form"),
        ("a..b=3", "a..b=3 (command line): expected an override of the form"),
        ("lr=[1, 2", "lr (command line): '[1, 2' is not a value: "),
        ("lr=${", "lr (command line): '${' is not a value: "),
        ("lr=@x", "lr (command line): '@x' is not a value: "),
    ],
)
def test_overrides_that_cannot_be(tmp_path, override, sentence):
    (found,) = problems(tmp_path, NODE, override)
    assert found.startswith(sentence)


def test_one_bad_override_does_not_stop_others(tmp_path):
    tree = load(write(tmp_path, NODE), ["lr.x=1", "head.hidden=9", "parts.9=max"])
    assert len(tree.problems) == 2
    assert tree.values["head"]["hidden"] == 9


def test_reading_needs_no_torch(tmp_path):
    file = write(tmp_path, "a: ${b}\nb: 3\n")
    code = (
        "import sys\nfrom actionkit.recipe import load\n"
        f"assert load({str(file)!r}).values == {{'a': 3, 'b': 3}}\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
