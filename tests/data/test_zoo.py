"""Every reader, and the loader above it, against every bad and odd file there is."""

import http.server
import multiprocessing
import os
import pickle
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from makers import Listed, good_files, records, zoo_folder

from actionkit import registry
from actionkit.contracts import Record, VideoReadError
from actionkit.data.datasets.folder import Folder
from actionkit.data.module import DataModule, Stage
from actionkit.data.readers.pyav import PyAV
from actionkit.data.samplers import Segments
from actionkit.data.sources import Sources
from actionkit.data.transforms.crop import CropResize
from actionkit.testing import readers, zoo
from actionkit.testing.subject import open_files

pytestmark = pytest.mark.timeout(120)  # what hangs fails here, and stops nobody

WHY = {  # what pyav says
    "missing": "there is no such file",
    "empty": "the file is empty",
    "text": "it is text, not a video",
    "html": "it is a web page, not a video; did a download fail?",
    "noise": "it is not a video of a known format",
    "no_moov": "its index (moov) is missing or damaged",
    "half": "cut short: frame ",
    "half_avi": "cut short: frame ",
    "zeroed": "damaged: frame ",
    "flipped": "damaged: ",
    "no_stream": "it has no video stream (no stream at all",
    "no_frames": "it has no frame that can be decoded",
    "audio": "it has no video stream (audio only)",
    "m3u8": "it is a playlist, not a video",
    "concat": "it is a playlist, not a video",
    "directory": "it is a folder, not a file",
    "locked": "Permission denied",
}
ODD = (
    "one_frame", "three_frames", "rotated", "variable_rate", "odd_size", "ten_bit",
    "b_frames_avi", "several_streams", "bytes_in_name",
)  # fmt: skip
PLAYLISTS = {"m3u8": "hls", "concat": "concat"}  # FFmpeg's names of these formats


@pytest.fixture(scope="module", params=["pyav", "decord", "torchcodec"])
def reader(request):
    try:
        return registry.load(registry.find("readers", request.param))()
    except ValueError as error:  # decord has wheels for x86-64 only, torchcodec is an extra
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    return zoo.bad(tmp_path_factory.mktemp("bad"))


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return zoo.odd(tmp_path_factory.mktemp("odd"))


def animal(cage, name):
    if name not in cage:
        pytest.skip(f"{name} cannot be made here")
    return cage[name]


def read_all(reader, path):
    """All frames [T, 3, H, W]."""
    return reader.read(path, np.arange(reader.probe(path).frames))


def error(reader, path):
    """The error of a file of which some frame cannot be read."""
    with pytest.raises(VideoReadError) as caught:
        read_all(reader, path)
    return caught.value


def refuses(reader, path):
    try:
        read_all(reader, path)
    except VideoReadError:
        return True
    return False


# --------------------------------------------------------------------------------------- readers


def test_the_zoo_is_the_one_we_know(bad, odd):
    assert bad.keys() | {"locked"} == WHY.keys()
    assert odd.keys() | {"bytes_in_name"} == set(ODD)


@pytest.mark.parametrize("name", WHY)
def test_a_bad_file_is_refused_every_time(reader, bad, name):
    path = animal(bad, name)
    first, second = error(reader, path), error(reader, path)
    assert first.path == str(path)
    assert len(first.reason) > 10
    assert str(first) == str(second) == str(pickle.loads(pickle.dumps(first)))


@pytest.mark.parametrize("name", WHY)
def test_pyav_says_what_is_wrong(bad, name):
    assert WHY[name] in error(PyAV(), animal(bad, name)).reason


@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_is_read_right_or_left_to_pyav(reader, odd, name):
    video, cure = animal(odd, name), nullcontext()
    if refuses(reader, video.path):
        assert not isinstance(reader, PyAV)
        cure = pytest.raises(VideoReadError, match=r"\bpyav\b")
    with cure:
        readers.require_right(reader, video, name, zoo.LEVELS)


def locked(reader, folder):
    """Why a file cannot be read that belongs to somebody else, in a process of its own."""
    if os.geteuid() == 0:
        os.seteuid(65534)  # root reads everything
    return error(reader, zoo.bad(folder)["locked"]).reason


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="Windows has no such rights")
def test_a_file_that_one_may_not_read(reader, bad):  # with `bad`, all imports are done
    forked = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, forked) as process:
        os.chmod(folder, 0o777)
        assert "Permission denied" in process.submit(locked, reader, Path(folder)).result()


def test_no_file_stays_open(reader, bad, odd):
    before = open_files()
    for path in [*bad.values(), *(video.path for video in odd.values())]:
        with suppress(VideoReadError):
            read_all(reader, path)
    assert open_files() == before


# ---------------------------------------------------------------------------- nothing is fetched


@contextmanager
def server():
    """An address, and the list of what was asked there so far."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}/clip.ts", asked
        serving.shutdown()
        thread.join()


def play(path, kind):
    """Decodes a playlist as FFmpeg does where nobody forbids it."""
    allowed = {"protocol_whitelist": "file,http,tcp,crypto,data", "allowed_extensions": "ALL"}
    liberal = {"hls": {**allowed, "extension_picky": "0"}, "concat": {**allowed, "safe": "0"}}
    with suppress(av.FFmpegError), av.open(str(path), format=kind, options=liberal[kind]) as file:
        for _ in file.decode(video=0):
            pass


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_in_disguise_opens_nothing(reader, tmp_path, name):
    with server() as (address, asked):
        path = zoo.bad(tmp_path, address)[name]
        beside = tmp_path / "beside.ts"
        os.utime(beside, (0, 1))
        error(reader, path)
        assert asked == []
        assert beside.stat().st_atime == 0
        play(path, PLAYLISTS[name])
        assert asked  # so it would have been noticed
        if beside.stat().st_atime == 0:
            pytest.skip("this file system does not keep the time of the last access")


# -------------------------------------------------------------------------------------- loading


def module(reader, paths, workers, batch=4, per_sample=()):
    """Every path as a record, in training and in evaluation."""
    data = Listed(records(paths))
    stage = Stage(Segments(count=3), list(per_sample))
    return DataModule(
        {"train": data, "val": data}, Sources(reader), stage, stage, batch=batch, workers=workers
    )


def mixed(bad, odd, good):
    """All files, the good ones among the bad."""
    whole = [*good, *(video.path for video in odd.values())]
    files = list(bad.values())
    for i, path in enumerate(whole):
        files.insert(2 * i, path)
    return files


@pytest.fixture(scope="module")
def files(bad, odd, tmp_path_factory):
    count = 8 + -(len(bad) + len(odd)) % 4  # a last, smaller batch would be left out
    return mixed(bad, odd, good_files(tmp_path_factory.mktemp("good"), count))


@pytest.fixture(scope="module")
def refused(reader, files):
    """The names of those that the reader refuses, in the order of the files."""
    return [path.name for path in files if refuses(reader, path)]


def batches(data, loader):
    try:
        return list(loader)
    finally:
        data.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_gives_every_good_file_and_names_every_bad_one_once(
    reader, files, refused, odd, workers
):
    data = module(reader, files, workers, batch=1)
    found = batches(data, data.val_dataloader())
    assert [name for b in found for name in b.id] == [
        path.name for path in files if path.name not in refused
    ]
    assert [b.id for batch in found for b in batch.bad] == refused
    by_name = {video.path.name: video for video in odd.values()}
    for batch in found:
        for name in set(batch.id) & by_name.keys():
            video, clip = by_name[name], batch.clips["rgb"]
            seen = reader.probe(video.path)
            wanted = Segments(count=3)(seen, Record("", {}), None)[0]
            given = [readers.nearest(frame, video.frames)[0] for frame in clip.x[0, 0]]
            allowed = video.allowed(seen)
            assert all(g in allowed[i] for g, i in zip(given, wanted, strict=True))


def test_training_replaces_bad_files_alike_with_any_workers(reader, files, refused):
    epochs = []
    for workers in (0, 2):
        data = module(reader, files, workers, per_sample=[CropResize(size=16)])
        loader = data.train_dataloader()
        loader.batch_sampler.set_epoch(1)
        epochs.append(batches(data, loader))
    for one, two in zip(*epochs, strict=True):
        assert len(one.id) == 4
        assert (one.id, one.bad) == (two.id, two.bad)
        assert torch.equal(one.index, two.index)
        assert torch.equal(one.seed, two.seed)
        assert torch.equal(one.clips["rgb"].x, two.clips["rgb"].x)
    assert {b.id for batch in epochs[0] for b in batch.bad} == set(refused)
    assert not {name for batch in epochs[0] for name in batch.id} & set(refused)


# --------------------------------------------------------------------------------------- folders


def test_a_folder_of_it_lists_all_but_the_folder(tmp_path):
    made = zoo_folder(tmp_path)
    for split in ("train", "val"):
        data = Folder(split, root=tmp_path)
        paths = [data[i].sources["rgb"] for i in range(len(data))]
        assert sorted(path.name for path in paths) == sorted(made.good + made.odd + made.bad)
        assert {path.name for path in paths if refuses(PyAV(), path)} == set(made.bad)
