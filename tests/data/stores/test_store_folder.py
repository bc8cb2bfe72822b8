"""The note of a store: begun, finished, refused."""

import json
from pathlib import Path

import pytest

from actionkit.data.stores.folder import NOTE, Failure, Store, root_for
from actionkit.errors import RunError

SETTINGS = {"quality": 90, "reader": {"use": "pyav"}, "pyramid": (5, 0.5), "weights": Path("w.pt")}


def begin(path, settings=SETTINGS, kind="frames", root="/videos"):
    return Store.begin(path, kind, settings, Path(root))


def test_a_store_that_is_finished_can_be_opened(tmp_path):
    path = tmp_path / "new" / "store"
    begin(path).finish([Failure("a.mp4", "it is text")])
    store = Store.open(path, "frames")
    assert store.complete
    assert store.root == "/videos"
    assert store.failures == [Failure("a.mp4", "it is text")]
    assert store.settings["reader"] == {"use": "pyav"}
    assert [p.name for p in path.iterdir()] == [NOTE]


def test_the_same_settings_go_on_where_they_were(tmp_path):
    begin(tmp_path).finish([Failure("a.mp4", "it is text")])
    assert begin(tmp_path).failures == [Failure("a.mp4", "it is text")]


def test_other_settings_are_refused_each_difference_by_name(tmp_path):
    begin(tmp_path)
    other = {"quality": 95, "reader": {"use": "decord", "threads": 2}, "pyramid": (5, 0.8)}
    with pytest.raises(RunError) as caught:
        begin(tmp_path, other, "flow", "/elsewhere")
    assert str(caught.value) == (
        f"{tmp_path} is a store made with other settings: kind is frames there, flow is wanted; "
        "root is /videos there, /elsewhere is wanted; quality is 90 there, 95 is wanted; "
        "reader.use is pyav there, decord is wanted; pyramid.1 is 0.5 there, 0.8 is wanted; "
        "weights is w.pt there, not set is wanted; reader.threads is not set there, 2 is wanted. "
        "Write to another folder, or remove this one"
    )


def test_what_cannot_be_opened(tmp_path):
    def reason(path, kind="frames"):
        with pytest.raises(ValueError, match=r"\w") as caught:
            Store.open(path, kind)
        return str(caught.value)

    store = tmp_path / "store"
    made = f"finds no store in {store}; make it: actionkit extract frames RECIPE {store}"
    assert reason(store) == made
    begin(store)
    assert reason(store).startswith(f"needs a whole store, but {store} is unfinished; call the ")
    assert reason(store, "flow") == (
        f"reads stores of flow, but {store} holds frames; use stored_frames"
    )
    values = json.loads((store / NOTE).read_text())
    (store / NOTE).write_text(json.dumps({**values, "format": 99}))
    assert reason(store) == f"cannot read the store in {store}: it is of another format"
    for text in ("", "{", "[]", json.dumps({"format": 1}), json.dumps({**values, "more": 1})):
        (store / NOTE).write_text(text)
        assert "extract again" in reason(store) or "another format" in reason(store)
        with pytest.raises(RunError):
            begin(store)


def test_a_folder_of_other_things_is_no_place_for_a_store(tmp_path):
    (tmp_path / "letter.txt").touch()
    with pytest.raises(RunError, match=r"holds files, but no store; choose another folder"):
        begin(tmp_path)


def test_the_root_is_the_deepest_common_folder_or_that_of_the_store_there(tmp_path):
    files = [Path("/v/train/a/1.mp4"), Path("/v/train/b/1.mp4")]
    assert root_for(tmp_path / "none", files) == Path("/v/train")
    assert root_for(tmp_path / "none", files[:1]) == Path("/v/train/a")
    begin(tmp_path, root="/v")
    assert root_for(tmp_path, files) == Path("/v")
    assert root_for(tmp_path, [Path("/w/1.mp4"), *files]) == Path("/")
    assert root_for(tmp_path, [Path("/vv/1.mp4")]) == Path("/vv")
