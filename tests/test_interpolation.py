"""Interpolation: other keys and the environment, nothing else, and no secret shown."""

# ruff: noqa: E501  one case a line

import pytest
from recipes_for_tests import problems, write

from actionkit.recipe import leaves, load


@pytest.mark.parametrize(
    "text",
    [
        "${oc.decode:1}", "${now:}", "${oc.create:{a: 1}}", "${oc.env:}", "${oc.env: HOME}",
        "${oc.dict.keys:a}", "${.b}", "${..b}", "${a[0]}", "${oc.env:HOME:x}", "${hydra:run}",
        "${oc.select:a}", "${oc.deprecated:a}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", ["{}", "before {} after", "{}{}"])
def test_other_resolvers_are_refused(tmp_path, text, shape):
    written = shape.format(text, text)
    (found,) = problems(tmp_path, f"a: 1\nb: '{written}'\n")
    assert found.startswith("b (recipe.yaml:2): ")
    assert "refused; only ${key.path} and ${oc.env:NAME} are known" in found or "nested" in found
    (found,) = problems(tmp_path, "a: 1\n", f"b='{written}'")
    assert found.startswith("b (command line): ")


@pytest.mark.parametrize("text", ["${oc.env:${a}}", "${${a}}", "${a.${b}}", "${oc.env:X,${a}}"])
def test_nested_interpolation_is_refused(tmp_path, text):
    (found,) = problems(tmp_path, f"a: HOME\nb: '{text}'\n")
    assert found.startswith(f"b (recipe.yaml:2): {text!r} is not closed, or is nested")


def test_a_refused_value_does_not_hide_others(tmp_path):
    found = problems(tmp_path, "a: ${now:}\nb: [1, '${nothing}']\nc: ${oc.env:NO_SUCH_VARIABLE}\n")
    assert [f.split(":")[0] for f in found] == [
        "a (recipe.yaml",
        "b.1 (recipe.yaml",
        "c (recipe.yaml",
    ]


@pytest.mark.parametrize("form", ["['${{a{0}}}', '${{a{0}}}']", "'${{a{0}}}${{a{0}}}'"])
def test_interpolation_bombs_are_refused(tmp_path, form):
    lines = ["a0: x"] + [f"a{i}: {form.format(i - 1)}" for i in range(1, 40)]
    found = problems(tmp_path, "\n".join(lines))
    assert any("values by interpolation" in f for f in found)


def test_a_long_chain_of_names_is_a_sentence(tmp_path):
    lines = [f"a{i}: '${{a{i - 1}}}'" for i in range(2000, 0, -1)] + ["a0: x"]
    assert any("recursion" in f for f in problems(tmp_path, "\n".join(lines)))


def test_maps_that_name_maps_are_counted_too(tmp_path):
    lines = ["map: {" + ", ".join(f"k{i}: 1" for i in range(2000)) + "}"]
    lines += [f"a{i}: ${{map}}" for i in range(100)]
    assert any("is too large" in f for f in problems(tmp_path, "\n".join(lines)))


def test_other_keys(tmp_path):
    text = (
        "size: 3\nname: net\nlist: [1, 2]\nmap: {a: '${size}', b: [x]}\n"
        "same: ${size}\nlabel: ${name}-${size}\nplace: ${list.1}\nall: ${map}\nchain: ${same}\n"
    )
    values = load(write(tmp_path, text)).values
    assert values["same"] == values["chain"] == 3
    assert values["label"] == "net-3"
    assert values["place"] == 2
    assert values["all"] == {"a": 3, "b": ["x"]}
    values["all"]["b"].append("y")
    assert values["map"]["b"] == ["x"], "copies are independent"


def test_overrides_reach_what_names_them(tmp_path):
    text = "size: 3\nsame: ${size}\n"
    assert load(write(tmp_path, text), ["size=5"]).values["same"] == 5
    assert load(write(tmp_path, text), ["same='${size}0'"]).values["same"] == "30"


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("3", 3), ("3e-4", 3e-4), ("true", True), ("/data/ucf101", "/data/ucf101"), ("[1, 2]", [1, 2]),
        ("", None), ("a=b", "a=b"), ("@not yaml", "@not yaml"), ("{", "{"), ("${", "${"),
        ("${oc.env:OTHER}", "${oc.env:OTHER}"), ("!!python/name:os.system", "!!python/name:os.system"),
    ],
)  # fmt: skip
def test_the_environment_is_read_like_a_command_line(tmp_path, monkeypatch, content, value):
    monkeypatch.setenv("ACTIONKIT_TEST", content)
    monkeypatch.setenv("OTHER", "not this")
    tree = load(write(tmp_path, "a: ${oc.env:ACTIONKIT_TEST}\nb: <${oc.env:ACTIONKIT_TEST}>\n"))
    assert not tree.problems
    assert tree.values["a"] == value
    assert type(tree.values["a"]) is type(value)
    assert tree.values["b"] == f"<{content}>", "inside a text it is a text"


def test_defaults_of_the_environment(tmp_path, monkeypatch):
    text = "a: ${oc.env:ACTIONKIT_TEST,7}\nb: '${oc.env:ACTIONKIT_TEST,}'\n"
    assert load(write(tmp_path, text)).values == {"a": 7, "b": None}
    monkeypatch.setenv("ACTIONKIT_TEST", "8")
    assert load(write(tmp_path, text)).values == {"a": 8, "b": 8}


def test_unset_variables_are_named(tmp_path):
    (found,) = problems(tmp_path, "a: 1\nb: ${oc.env:ACTIONKIT_NO_SUCH}/x\n")
    sentence = "the environment variable ACTIONKIT_NO_SUCH is not set"
    assert found == f"b (recipe.yaml:2): {sentence}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: ${nothing}", "a (recipe.yaml:1): '${nothing}' names nothing in the recipe"),
        ("a: {b: 1}\nc: ${a.d}", "c (recipe.yaml:2): '${a.d}' names nothing"),
        ("a: [1]\nc: ${a.1}", "c (recipe.yaml:2): '${a.1}' names nothing"),
        ("a: [1]\nc: ${a.x}", "c (recipe.yaml:2): '${a.x}' names nothing"),
        ("a: 1\nc: ${a.x}", "c (recipe.yaml:2): '${a.x}' names nothing"),
        ("a: {b: 1}\nc: x${a}", "c (recipe.yaml:2): a map or a list cannot stand inside a text"),
    ],
)
def test_interpolation_of_nothing(tmp_path, text, sentence):
    (found,) = problems(tmp_path, text)
    assert found.startswith(sentence)


@pytest.mark.parametrize(
    "text", ["a: ${a}", "a: ${b}\nb: ${c}\nc: ${a}", "a: {b: '${a}'}", "a: [x, '${b}']\nb: y${a.1}"]
)
def test_circles_are_a_sentence(tmp_path, text):
    found = problems(tmp_path, text)
    assert found
    assert all("goes round in a circle: " in f for f in found)


def test_secrets_are_not_public(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTIONKIT_SECRET", "hunter2-canary")
    text = (
        "direct: ${oc.env:ACTIONKIT_SECRET}\n"
        "inside: key=${oc.env:ACTIONKIT_SECRET}!\n"
        "default: ${oc.env:ACTIONKIT_SECRET,none}\n"
        "other: ${direct}\n"
        "twice: ${other}\n"
        "mixed: ${plain}/${direct}\n"
        "map: {deep: {key: '${oc.env:ACTIONKIT_SECRET}', plain: 3}, list: ['${direct}']}\n"
        "whole: ${map}\n"
        "part: ${whole}\n"
        "items: ['${map.list}', '${map.deep.key}']\n"
        "plain: x\n"
        "copy: ${plain}\n"
    )
    tree = load(write(tmp_path, text), ["given='${direct}'"])
    assert not tree.problems
    public = dict(leaves(tree.public))
    own = dict(leaves(tree.values))
    assert public.keys() == own.keys()
    assert "hunter2" not in repr(tree.public)
    hidden = {key for key, value in own.items() if "hunter2" in str(value)}
    assert hidden == own.keys() - {
        ("plain",), ("copy",), ("map", "deep", "plain"), ("whole", "deep", "plain"),
        ("part", "deep", "plain"),
    }  # fmt: skip
    assert public["mixed",] == "x/${oc.env:ACTIONKIT_SECRET}"
    assert public["copy",] == "x"
    assert load(write(tmp_path, tree.public)).values == tree.values, "it can be run again"
