"""A recipe's readers: one for all modalities, or a map of them."""

import re
from pathlib import Path

import pytest
import torch
from makers import Listed
from recipes_for_tests import PIPELINE, TWO_STREAMS, changed, write

from actionkit import builder, registry
from actionkit.contracts import Info, Reader, Record, Shape
from actionkit.data.readers.frames import Frames
from actionkit.data.readers.pyav import PyAV
from actionkit.registry import Entry

ENTRIES = tuple(
    Entry("readers", name, f"their_readers:{target}", "their-dist", "1.0")
    for name, target in (
        ("vectors", "Vectors"),
        ("whole_clips", "WholeClips"),
        ("made_up", "MadeUp"),
        ("out_of_order", "OutOfOrder"),
    )
)


class Still(Reader):
    """Frames without a file."""

    def probe(self, path):
        return Info(9, 3.0, 3.0, 4, 6)

    def read(self, path, indices):
        return torch.zeros(len(indices), 3, 4, 6, dtype=torch.uint8)


class Vectors(Still):
    """What a network made of the frames of rgb."""

    kind = "score"

    def __init__(self, *, width: int = 32) -> None:
        self.width = width

    def source(self, record, modality):
        return record.sources["rgb"].parent / "vectors.npy"

    def out(self, shape):
        return shape._replace(channels=self.width, height=1, width=1)


class WholeClips(Vectors):
    """One vector a clip."""

    whole = True


class MadeUp(Still):
    """Reads every modality, whatever a record has."""

    def source(self, record, modality):
        return Path(modality)


class OutOfOrder(Still):
    """Cannot be made."""

    def __init__(self) -> None:
        raise ValueError("needs what this machine lacks; set data.reader: pyav")


class Pairs(Listed):
    """Records of two modalities."""

    modalities = ("rgb", "flow")


@pytest.fixture(autouse=True)
def plugin(monkeypatch, tmp_path_factory):
    """The readers above in a module of their own: the source of tests is pytest's, and hidden."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "their_readers.py").write_text(Path(__file__).read_text())
    monkeypatch.syspath_prepend(folder)
    entries = registry.entries() + ENTRIES
    monkeypatch.setattr(registry, "entries", lambda: entries)


def blueprint(folder, reader, changes=None, **options):
    values = changed(TWO_STREAMS, {"data.reader": reader, **(changes or {})})
    return builder.blueprint(write(folder, values), **{"data": False, **options})


def pairs():
    """Data sets of records with rgb and flow, as given to a blueprint."""
    given = [Record("a", {"rgb": Path("a.mp4"), "flow": Path("a_flow.mp4")}, 0)]
    return {split: Pairs(given) for split in ("train", "val", "test")}


def said(found):
    return [f"{p.key}: {p.text}" for p in found.problems]


VECTORS = {  # what a network of vectors needs
    "data.train": {"sampler": {"use": "segments", "count": 3}},
    "data.eval": {"sampler": {"use": "segments", "count": 3}},
    "model": {"streams": {"rgb": {"aggregate": "mean", "head": "linear"}}},
    "loss": "cross_entropy",
}


@pytest.mark.parametrize("reader", ["pyav", {"use": "pyav"}])
def test_one_reader_for_all(tmp_path, reader):
    found = blueprint(tmp_path, reader)
    assert said(found) == []
    assert isinstance(found.stages.sources.readers, PyAV)
    assert found.stages.shapes == {"rgb": Shape(3, 3, 48, 48)}


def test_a_map_of_one(tmp_path):
    found = blueprint(tmp_path, {"rgb": "pyav"})
    assert said(found) == []
    assert list(found.stages.sources.readers) == ["rgb"]
    assert isinstance(found.stages.sources.readers["rgb"], PyAV)
    assert found.stages.shapes == {"rgb": Shape(3, 3, 48, 48)}


def test_a_map_has_readers_with_their_own_options(tmp_path):
    readers = {"rgb": {"use": "pyav", "timeout": 7}, "flow": {"use": "frames", "fps": 25}}
    found = blueprint(tmp_path, readers, datasets=pairs())
    assert said(found) == []
    made = found.stages.sources.readers
    assert isinstance(made["flow"], Frames)
    assert (made["rgb"].limits.timeout, made["flow"].fps) == (7, 25)
    shapes = found.stages.shapes
    assert {m: s.channels for m, s in shapes.items()} == {"rgb": 3, "flow": 2}


def test_only_what_the_map_names_is_read(tmp_path):
    both = blueprint(tmp_path, "pyav", datasets=pairs())
    one = blueprint(tmp_path, {"rgb": "pyav"}, datasets=pairs())
    assert said(both) == said(one) == []
    assert list(both.stages.shapes) == ["rgb", "flow"]
    assert list(one.stages.shapes) == ["rgb"]


def test_a_modality_that_no_record_has_is_refused_where_it_is_needed(tmp_path):
    found = blueprint(tmp_path, {"rgb": "pyav", "depth": "pyav"})
    assert said(found) == [
        "data.reader.depth: the records have no 'depth' to read, but rgb; 'pyav' cannot make one "
        "of these"
    ]
    with pytest.raises(builder.RecipeError, match="the records have no 'depth' to read"):
        builder.build(found)
    found = blueprint(tmp_path, {"depth": "pyav"}, datasets=pairs())
    assert said(found)[0].startswith(
        "data.reader.depth: the records have no 'depth' to read, but rgb, flow; 'pyav' cannot"
    )


def test_a_reader_that_makes_a_modality_of_another_is_not_refused(tmp_path):
    found = blueprint(tmp_path, {"rgb": "pyav", "depth": "made_up"})
    assert said(found) == []
    assert list(found.stages.shapes) == ["rgb", "depth"]
    record = Record("a", {"rgb": Path("a.mp4")})
    paths = {m: s.path for m, s in found.stages.sources.of(record).items()}
    assert paths == {"rgb": Path("a.mp4"), "depth": Path("depth")}


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        ({}, "data.reader (FILE:LINE): expected at least one; leave it out to have the default"),
        ({"rgb": "pyva"}, "data.reader.rgb (FILE:LINE): there is no reader 'pyva'. Did you mean"),
        ({"rgb": {"use": "pyav", "time": 3}}, "data.reader.rgb.time (FILE:LINE): "),
        ({"rgb": {"use": "frames"}}, "data.reader.rgb (FILE:LINE): "),
        (
            {"rgb": "pyav", "flow": "mean"},
            "data.reader.flow (FILE:LINE): there is no reader 'mean'",
        ),
    ],
)
def test_a_map_is_checked_as_any_node(tmp_path, reader, text):
    try:
        (problem,) = blueprint(tmp_path, reader).problems
    except builder.RecipeError as error:  # what is wrong without building anything
        (problem,) = error.problems
    place = f"{tmp_path}/recipe.yaml:"
    said = re.sub(re.escape(place) + r"\d+", "FILE:LINE", str(problem))
    assert said.startswith(text)


def test_a_reader_says_what_it_gives(tmp_path):
    """Vectors need no size and no backbone; `show` prints what is derived here."""
    for reader in ("vectors", {"rgb": "vectors"}):
        found = blueprint(tmp_path, reader, VECTORS)
        assert said(found) == []
        assert found.stages.shapes == {"rgb": Shape(3, 32, 1, 1)}
        (head,) = (r for r in found.components.rows if r.use == "linear")
        assert head.parameters == 2 * 32 + 2
    found = blueprint(tmp_path, {"rgb": {"use": "vectors", "width": 5}}, VECTORS)
    assert found.stages.shapes == {"rgb": Shape(3, 5, 1, 1)}


def test_what_is_read_whole_stands_alone(tmp_path):
    found = blueprint(tmp_path, {"rgb": "whole_clips"}, VECTORS)
    assert said(found) == []
    found = blueprint(tmp_path, {"rgb": "whole_clips", "other": "whole_clips"}, VECTORS)
    assert said(found) == []
    found = blueprint(tmp_path, {"more": "vectors", "rgb": "whole_clips"}, VECTORS)
    assert said(found) == [
        "data.reader.rgb: 'whole_clips' counts other steps than a video; read no videos beside it"
    ]
    assert found.stages.sources is None
    assert set(found.stages.shapes) == {"rgb", "more"}


@pytest.mark.parametrize("names", [("more", "rgb"), ("rgb", "more")])
def test_a_broken_reader_leaves_the_others_shapes_known(tmp_path, names):
    readers = {"more": "out_of_order", "rgb": "pyav"}
    found = blueprint(tmp_path, {name: readers[name] for name in names})
    assert said(found) == [
        "data.reader.more: 'out_of_order' needs what this machine lacks; set data.reader: pyav"
    ]
    assert found.stages.sources is None
    assert found.stages.shapes["rgb"] == Shape(3, 3, 48, 48)
    assert any(row.use == "linear" for row in found.components.rows)  # the network was looked at


def test_both_broken_readers_are_said(tmp_path):
    found = blueprint(tmp_path, {"rgb": "out_of_order", "depth": "pyav"})
    assert [text.partition(":")[0] for text in said(found)] == [
        "data.reader.rgb",
        "data.reader.depth",
    ]


def test_a_map_in_a_recipe_runs(tmp_path):
    changes = {"data.train": PIPELINE, "data.workers": 0, "data.batch": 2}
    found = blueprint(tmp_path, {"rgb": "made_up"}, changes, datasets=pairs())
    assert said(found) == []
    task, data = builder.build(found)
    batch = next(iter(data.train_dataloader()))
    assert list(batch.clips) == ["rgb"]
    assert set(task(batch)) == {"one", "two", "scores"}
