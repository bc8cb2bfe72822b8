"""`actionkit info`: one component, told from metadata and source."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import typer
import yaml
from sites import fresh
from typer.testing import CliRunner

from actionkit import registry
from actionkit.cli import describing
from actionkit.cli.info import info
from actionkit.schema import Nested

site = pytest.fixture(fresh)
AGGREGATORS = "actionkit.aggregators"
POOL = '''
raise SystemExit("imported")


class Pool:
    """Pools [x] over y.

    A second
    paragraph.

    - a list
    - of two

    Args:
        inp: what it takes.
        size: how many,
            in units: as
            is usual.

    Raises:
        ValueError: if it rains.
    """

    def __init__(self, inp, *, size: tuple[int, float], kind: str = "a: b", half: float = 1 / 2,
                 ranges: list[int] | None = (1, 2)):
        ...
'''


def invoke(*arguments, code=0, columns=100):
    app = typer.Typer()
    app.command()(info)
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(columns)})
    assert done.exit_code == code, done.output
    return done.output


def rows(*arguments):
    return json.loads(invoke(*arguments, "--json"))


@pytest.mark.parametrize("arguments", [
    ["lstm"], ["aggregators/lstm"], ["aggregators", "lstm"], ["actionkit:lstm"],
    ["aggregators/ActionKit:lstm"], ["aggregators", "actionkit:lstm"],
])  # fmt: skip
def test_a_component_goes_by_several_names(arguments):
    (row,) = rows(*arguments)
    assert (row["group"], row["name"], row["distribution"]) == ("aggregators", "lstm", "actionkit")
    assert row["yaml"] == "{use: lstm, hidden: ...}"
    line = Path(row["file"]).read_text().splitlines()[row["line"] - 1]
    assert line.startswith("class LSTM(")


@pytest.mark.parametrize("columns", [80, 100])
def test_all_is_shown_in_the_width_of_the_terminal(columns):
    text = invoke("lstm", columns=columns)
    words = " ".join(text.split())
    for piece in (
        "lstm, aggregator of actionkit", "actionkit.aggregators.recurrent:LSTM",
        "x [B, T, C, 1, 1] to [B, T, hidden or 2 hidden, 1, 1].", "Takes inp one vector per step.",
        "hidden int required units of each layer", "bidirectional true | false false each layer",
        "ValueError maps instead of vectors", "freeze true | false | int", "evaluation.steps",
        "{use: lstm, hidden: ...}",
    ):  # fmt: skip
        assert piece in words
    assert max(len(line) for line in text.splitlines() if "/" not in line) <= columns


def test_every_component_and_recipe_of_ours_can_be_shown():
    for entry in registry.entries():
        row = describing.component(entry)
        if entry.distribution == registry.OWN and entry.group != "recipes" and not row["broken"]:
            assert row["doc"], entry
            yaml.safe_load(row["yaml"].replace("...", "0"))
            assert entry.name in invoke(entry.group, entry.name)


def test_a_name_in_several_groups_is_shown_in_each(site):
    site.install("mine", {AGGREGATORS: {"mean": "mine:M"}, "actionkit.heads": {"mean": "mine:M"}})
    found = [(row["group"], row["distribution"]) for row in rows("mean")]
    assert found == [("aggregators", "actionkit"), ("aggregators", "mine"), ("heads", "mine")]
    assert len(rows("aggregators", "mean")) == len(rows("mine:mean")) == 2
    assert len(rows("aggregators/mine:mean")) == 1


def test_a_plugin_is_told_without_importing_it(site):
    site.install("their-pool", {AGGREGATORS: {"pool": "their_pool:Pool"}}, version="2.0", code=POOL)
    (row,) = rows("pool")
    assert row["file"] == str(site.folder / "their_pool.py")
    options = {option["name"]: option for option in row["options"]}
    reserved = ["weights", "freeze", "freeze_norm", "lr"]
    assert [*options] == ["size", "kind", "half", "ranges", *reserved]
    assert options["size"] == {
        "name": "size", "type": "[int, number]", "required": True, "default": "",
        "text": "how many, in units: as is usual.",
    }  # fmt: skip
    assert options["ranges"]["type"] == "[int, ...] | null"
    defaults = [options[name]["default"] for name in ("kind", "half", "ranges")]
    assert defaults == ["'a: b'", "1 / 2", "[1, 2]"]
    lines = [line.strip() for line in invoke("pool").splitlines()]
    assert "Pools [x] over y." in lines
    assert "A second paragraph." in lines
    assert "- of two" in lines
    assert "{use: pool, size: ...}" in lines


def test_two_plugins_with_one_name_are_both_shown_with_what_to_write(site):
    for name in ("pool-a", "pool-b"):
        module = name.replace("-", "_")
        site.install(name, {AGGREGATORS: {"pool": f"{module}:Pool"}}, code=POOL)
    first, second = rows("pool")
    assert first["note"] == (
        "pool-b has one of this name, too; the bare name is refused: write pool-a:pool"
    )
    assert second["yaml"] == "{use: pool-b:pool, size: ...}"
    assert yaml.safe_load(second["yaml"]) == {"use": "pool-b:pool", "size": "..."}
    assert "write pool-b:pool" in " ".join(invoke("pool").split())


def test_a_name_of_ours_stays_ours(site):
    site.install("mine", {AGGREGATORS: {"mean": "mine:Pool"}}, code=POOL)
    ours, theirs = rows("mean")
    assert ours["note"] == "mine has one of this name, too; the bare name means this one"
    assert ours["yaml"] == "mean"
    assert theirs["note"].endswith("the bare name is actionkit's: write mine:mean")


@pytest.mark.parametrize(
    ("code", "words"), [(None, "no module named"), ("def (", "cannot be read")]
)
def test_a_broken_one_is_shown_as_such(site, code, words):
    site.install("broken", {AGGREGATORS: {"wreck": "broken:Wreck"}}, version="0.3", code=code)
    text = " ".join(invoke("wreck").split())
    assert "wreck, aggregator of broken 0.3" in text
    assert "broken: 'wreck' comes from broken 0.3, but the source of broken:Wreck" in text
    assert words in text
    assert rows("wreck")[0]["broken"]


@pytest.mark.parametrize(("arguments", "words"), [
    (["lsmt"], "nothing goes by 'lsmt'. Did you mean lstm"),
    (["tow_stream"], "nothing goes by 'tow_stream'. Did you mean two_stream"),
    (["qqqqqq"], "nothing goes by 'qqqqqq'. `actionkit list` shows all names."),
    (["nobody:lstm"], "nothing goes by 'nobody:lstm'. Did you mean lstm"),
    (["heads", "lstm"], "nothing goes by 'heads/lstm'. Did you mean lstm"),
    (["aggregator", "lstm"], "no group 'aggregator'. Did you mean aggregators?"),
])  # fmt: skip
def test_an_unknown_name_gets_near_ones(arguments, words):
    text = invoke(*arguments, code=2, columns=400)
    assert words in " ".join(text.split())


def test_a_recipe_shows_its_comment_and_how_to_see_more(site):
    package = site.folder / "their_recipes"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "two_stream.yaml").write_text("# Theirs.\n#\n#   indented\nname: x\n# not this\n")
    site.install("their-recipes", {"actionkit.recipes": {"theirs": "their_recipes"}})
    ours, theirs = rows("recipes", "two_stream")
    assert ours["doc"].splitlines()[0].startswith("Two-stream network")
    assert "name: two_stream" not in ours["doc"]
    assert theirs["doc"] == "Theirs.\n\n  indented"
    text = invoke("actionkit:two_stream")
    assert "actionkit show two_stream" in text
    assert ours["file"] in text
    assert "actionkit show their-recipes:two_stream" in invoke("their-recipes:two_stream")


def test_an_option_hides_the_key_of_its_name():
    """`average` has weights of its own: there is no checkpoint by this key."""
    (row,) = rows("average")
    kinds = [o["type"] for o in row["options"] if o["name"] == "weights"]
    assert kinds == ["{text: number} | null"]


@pytest.mark.parametrize(("kind", "words"), [
    (int, "int"), (float | None, "number | null"), (bool, "true | false"), (Any, "anything"),
    (Literal["a", "yes", 2, None], "a | 'yes' | 2 | null"), (list[str], "[text, ...]"),
    (tuple[int, ...], "[int, ...]"), (dict[str, list[int]], "{text: [int, ...]}"),
    (Nested("Part"), "part, as a node"), (Path, "path"), (list, "list"),
    (float | int, "number | int"),
])  # fmt: skip
def test_types_are_written_as_recipes_write_values(kind, words):
    assert describing.written_type(kind) == words


def test_places_are_those_of_the_grammar():
    assert [place for place, _ in describing.places("losses")] == ["loss"]
    assert "model.streams.NAME.aggregate" in [p for p, _ in describing.places("aggregators")]
    assert not describing.places("callbacks")
    (row,) = rows("cross_entropy")
    assert "weight" in [option["name"] for option in row["options"]]
    assert "freeze" not in [option["name"] for option in row["options"]]


def test_no_torch_is_imported():
    code = (
        "import sys, typer\nfrom actionkit.cli.info import info\nsys.argv = ['info', 'lstm']\n"
        "try: typer.run(info)\nexcept SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'timm', 'actionkit.aggregators.recurrent'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
