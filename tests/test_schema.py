"""Options read from source equal those of the imported class."""

import inspect
import sys
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from actionkit import registry, schema
from actionkit.registry import BrokenComponentError, Entry
from actionkit.schema import Nested
from actionkit.values import MisfitError, fit, nested

OWN = [e for e in registry.entries() if e.distribution == "actionkit" and e.group != "recipes"]


@pytest.mark.parametrize("entry", OWN, ids=lambda e: f"{e.group}-{e.name}")
def test_the_schema_of_a_builtin_is_its_signature(entry):
    signature = inspect.signature(registry.load(entry).__init__).parameters.values()
    expected = {
        p.name: p.default is inspect.Parameter.empty
        for p in signature
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }
    if entry.group == "tasks":
        expected = {}  # a task is given its whole system
    found = schema.parameters(entry)
    assert {name: p.required for name, p in found.items()} == expected
    assert not [p.name for p in found.values() if p.type is Any], "an option without a known type"


@pytest.mark.parametrize("entry", OWN, ids=lambda e: f"{e.group}-{e.name}")
def test_the_defaults_of_a_builtin_fit_its_own_types(entry):
    signature = inspect.signature(registry.load(entry).__init__).parameters
    for name, parameter in schema.parameters(entry).items():
        if not parameter.required:
            default = signature[name].default
            assert fit(default, parameter.type) == default
            assert ast_value(parameter.default) == default


def ast_value(text: str) -> Any:
    return eval(text, {"Path": Path})


@pytest.mark.parametrize("entry", OWN, ids=lambda e: f"{e.group}-{e.name}")
def test_the_summary_of_a_builtin_is_its_first_line(entry):
    assert schema.summary(entry) == inspect.getdoc(registry.load(entry)).split("\n")[0]


# ----------------------------------------------------------------------------- written for a test


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes a module and gives the entry of a class in it."""
    monkeypatch.syspath_prepend(tmp_path)
    count = iter(range(99))

    def make(source: str | bytes, name: str = "Thing") -> Entry:
        module = f"schema_plugin_{tmp_path.name.replace('-', '_')}_{next(count)}"
        file = tmp_path / f"{module}.py"
        file.write_bytes(source if isinstance(source, bytes) else source.encode())
        return Entry("aggregators", "thing", f"{module}:{name}", "third", "1.2.0")

    return make


def options(plugin, annotations: str) -> dict[str, Any]:
    """The types of options by name."""
    source = f"class Thing:\n    def __init__(self, inp, *, {annotations}): ..."
    return {name: p.type for name, p in schema.parameters(plugin(source)).items()}


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("int", [3], [True, 3.0, "3", None]),
        ("'int'", [3], ["3"]),
        ("float", [3, 0.5], ["0.5", False]),
        ("Optional[int]", [3, None], ["3"]),
        ("t.Optional[int]", [None], ["3"]),
        ("'int | None'", [3, None], ["3"]),
        ("int | None", [3, None], ["3"]),
        ("None | str", ["a", None], [3]),
        ("Union[int, str]", [3, "a"], [0.5]),
        ("Literal['a', 'b']", ["a"], ["c", None]),
        ("Literal[-1, 2]", [-1], [1, "2"]),
        ("Literal['auto'] | int", ["auto", 3], ["aut"]),
        ("list[int]", [[1], []], [[1.5], 1, ["1"]]),
        ("Sequence[int]", [[1]], [["1"]]),
        ("List[float]", [[1.0]], [["1"]]),
        ("list", [[1, "a"]], [1]),
        ("tuple[int, int]", [(1, 2)], [[1], [1, 2, 3], [1, "2"]]),
        ("tuple[int, ...]", [(), (1, 2, 3)], [["a"]]),
        ("Tuple[float, str]", [(1.0, "a")], [["a", 1.0]]),
        ("dict[str, float]", [{"a": 1.0}], [{1: 1.0}, {"a": "b"}, []]),
        ("Mapping[str, int]", [{"a": 1}], [{"a": 0.5}]),
        ("dict", [{"a": [1]}], [[]]),
        ("Path", [], [3]),
        ("pathlib.Path", [], [3]),
        ("bool | int", [True, 2], ["on"]),
    ],
)
def test_annotations(plugin, annotation, good, bad):
    kind = options(plugin, f"x: {annotation}")["x"]
    for value in good:
        assert fit(value, kind) == value
    for value in bad:
        with pytest.raises(MisfitError):
            fit(value, kind)


def test_what_is_not_understood_takes_anything(plugin):
    found = options(plugin, "a, b: np.ndarray, c: Unknown = 3, d: set[int] = ()")
    assert set(found.values()) == {Any}


def test_make_is_a_component_inside(plugin):
    found = options(plugin, "a: Make[Part], b: c.Make[c.Loss], d: 'Make[Part] | None' = None")
    assert [nested(kind) for kind in found.values()] == [
        Nested("Part"),
        Nested("Loss"),
        Nested("Part"),
    ]
    assert type(None) in get_args(found["d"])


def test_required_defaults_and_positional_ones(plugin):
    source = (
        "class Thing:\n"
        "    def __init__(self, inp, classes=(), *, size: int, kind: Literal['a', 'b'] = 'a',"
        " rate: float = 1 / 3): ...\n"
    )
    found = schema.parameters(plugin(source))
    assert [(p.name, p.required, p.default) for p in found.values()] == [
        ("size", True, ""),
        ("kind", False, "'a'"),
        ("rate", False, "1 / 3"),
    ]
    assert found["kind"].type == Literal["a", "b"]


@pytest.mark.parametrize(
    "source",
    [
        "class Base:\n def __init__(self, *, size: int): ...\nclass Thing(Base): ...",
        "class A:\n def __init__(self, *, size: int): ...\nclass B(A): ...\n"
        "class Thing(elsewhere.C, D[int], B): ...",
        "class A:\n def __init__(self, *, wrong: int): ...\n"
        "class Thing(A):\n def __init__(self, *, size: int): ...",
    ],
)
def test_a_constructor_in_a_base_class_of_the_same_module(plugin, source):
    assert list(schema.parameters(plugin(source))) == ["size"]


@pytest.mark.parametrize(
    "source",
    [
        "class Thing: ...",
        "class Thing(Thing): ...",  # of another module, by the same name
        "class Base(Thing): ...\nclass Thing(Base): ...",
    ],
)
def test_no_constructor_is_no_options(plugin, source):
    assert schema.parameters(plugin(source)) == {}


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("class Other: ...", "defines no class Thing; register the module that does"),
        ("from x import Thing", "defines no class Thing"),
        ("class Thing(:", "cannot be read: "),
        (b"# \xff\xfe\nclass Thing: ...", "cannot be read: "),
        (b"class Thing: ...\n\0", "cannot be read: "),
        ("class Thing:\n def __init__(self, *, a: 'int |'): ...", "cannot be read: "),
        ("class Thing:\n def __init__(self, *, a: Literal[f(3)]): ...", "cannot be read: "),
    ],
)
def test_unreadable_sources(plugin, source, cause):
    entry = plugin(source)
    with pytest.raises(BrokenComponentError) as caught:
        schema.parameters(entry)
    assert str(caught.value).startswith("'thing' comes from third 1.2.0, but the source of ")
    assert cause in str(caught.value)
    assert schema.summary(entry) == ""


@pytest.mark.parametrize(
    ("module", "cause"),
    [
        ("no_such_package.inside", "no module named no_such_package"),
        ("actionkit.no_such_module", "no module named actionkit.no_such_module"),
        ("sys", "has no Python source"),
        ("math", "has no Python source"),
    ],
)
def test_modules_without_source(module, cause):
    entry = Entry("aggregators", "thing", f"{module}:Thing", "third", "1.2.0")
    with pytest.raises(BrokenComponentError, match=cause):
        schema.parameters(entry)


def test_nothing_is_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "silent_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('package imported')")
    (package / "inside.py").write_text(
        "raise SystemExit('imported')\n"
        "class Thing:\n    '''Does it.\n\n    More.'''\n    def __init__(self, *, a: int): ..."
    )
    entry = Entry("aggregators", "thing", "silent_package.inside:Thing", "third", "1")
    assert list(schema.parameters(entry)) == ["a"]
    assert schema.summary(entry) == "Does it."
    assert schema.package_folder("silent_package") == package
    assert schema.package_folder("silent_package.inside") is None
    assert schema.package_folder("no_such_package") is None
    assert "silent_package" not in sys.modules
