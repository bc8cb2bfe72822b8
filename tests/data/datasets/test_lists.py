import os

import pytest

from actionkit.data.datasets.lists import Inside, Problems, printable, read_lines


@pytest.mark.parametrize(
    "data",
    [b"a b\nc\n", b"a b\r\nc\r\n", b"a b\rc", b" a b \t\nc  ", b"\xef\xbb\xbfa b\nc"],
)
def test_lines_are_the_same_however_they_end(tmp_path, data):
    path = tmp_path / "list.txt"
    path.write_bytes(data)
    assert read_lines(path) == [(1, "a b"), (2, "c")]


def test_blank_lines_count_but_are_left_out(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\n  \na\n\t\nb\n\n")
    assert read_lines(path) == [(3, "a"), (5, "b")]


def test_names_are_cut_at_newlines_only(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("a\u2028b\x0bc\u00a0\nd\u3000".encode() + b"\xe9\x85")
    assert read_lines(path) == [(1, "a\u2028b\x0bc\u00a0"), (2, "d\u3000\udce9\udc85")]
    assert os.fsencode(read_lines(path)[1][1]).endswith(b"\xe9\x85")


def test_what_is_no_list_is_said(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a.mp4 1\n", encoding="utf-16")
    with pytest.raises(ValueError, match=r"^is written in UTF-16; save it as UTF-8$"):
        read_lines(path)
    with pytest.raises(ValueError, match=r"^cannot be read: Is a directory$"):
        read_lines(tmp_path)


def test_printable_text_can_be_encoded():
    assert printable("caf\udce9") == r"caf\udce9"
    assert printable("café") == "café"


def test_problems_come_at_once_the_first_five_and_the_count():
    problems = Problems()
    problems.require_none()
    problems.add("a.txt", "wrong", 3)
    with pytest.raises(ValueError, match=r"^finds a problem in its lists:\n  a.txt:3: wrong$"):
        problems.require_none()
    for line in range(1, 7):
        problems.add("b\udcff.txt", f"bad {line}", line)
    with pytest.raises(ValueError, match=r"^finds 7 problems in its lists:\n") as raised:
        problems.require_none()
    assert str(raised.value).split("\n  ")[2] == r"b\udcff.txt:1: bad 1"
    assert str(raised.value).endswith("bad 4\n  and 2 more")
    assert len(problems.found) == 7


# ------------------------------------------------------------------------------------ staying in


@pytest.fixture
def root(tmp_path):
    for name in ("root/a/x.mp4", "root/b/y.mp4", "other/z.mp4"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "root"


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("a/x.mp4", "a/x.mp4"),
        ("./a//x.mp4", "a/x.mp4"),
        ("x.mp4", "x.mp4"),
        ("a/../b/y.mp4", "b/y.mp4"),
        ("../root/b/y.mp4", "b/y.mp4"),
        ("no/such/file.mp4", "no/such/file.mp4"),
        ("..a/..b.mp4", "..a/..b.mp4"),
    ],
)
def test_paths_inside_are_relative_to_root_and_need_not_exist(root, written, found):
    assert Inside(root).locate(written) == found
    assert Inside(root).locate(str(root / written)) == found


def test_absolute_paths_may_use_the_name_root_was_given(tmp_path, root):
    (tmp_path / "link").symlink_to(root)
    inside = Inside(tmp_path / "link")
    assert inside.locate(str(tmp_path / "link/a/x.mp4")) == "a/x.mp4"
    assert inside.locate(str(root / "a/x.mp4")) == "a/x.mp4"


@pytest.mark.parametrize(
    "written", ["../other/z.mp4", "a/../../other/z.mp4", "/etc/passwd", "../x"]
)
def test_paths_that_leave_root_are_refused(root, written):
    with pytest.raises(ValueError, match=r"^the path leaves root: .* is not in .*root; correct"):
        Inside(root).locate(written)


def test_a_root_beside_with_the_same_beginning_is_outside(tmp_path, root):
    (tmp_path / "root2").mkdir()
    with pytest.raises(ValueError, match="leaves root"):
        Inside(root).locate("../root2/x.mp4")


@pytest.mark.parametrize("written", ["", "a/", "a/..", ".", "a\0b.mp4", "a\nb.mp4"])
def test_what_names_no_file_is_refused(root, written):
    with pytest.raises(ValueError, match=r"is no name of a file$"):
        Inside(root).locate(written)


def test_links_may_stay_inside_but_not_lead_out(tmp_path, root):
    (root / "a/inner.mp4").symlink_to(root / "b/y.mp4")
    (root / "a/outer.mp4").symlink_to(tmp_path / "other/z.mp4")
    (root / "inner").symlink_to(root / "b")
    (root / "outer").symlink_to(tmp_path / "other")
    inside = Inside(root)
    for written in ("a/inner.mp4", "inner/y.mp4", "a/x.mp4"):
        assert inside.locate(written) == written
    for written in ("a/outer.mp4", "outer/z.mp4", "outer/deep/z.mp4"):
        with pytest.raises(ValueError, match=r"^a link that leads out of root: .* -> .*other"):
            inside.locate(written)


def test_no_file_is_asked_for(root, monkeypatch):
    """Lists are long, network disks slow."""
    inside = Inside(root)
    inside.locate("a/x.mp4")
    for name in ("stat", "lstat", "scandir", "readlink"):
        monkeypatch.setattr(os, name, None)
    assert [inside.locate(f"a/{i}.mp4") for i in range(3)] == ["a/0.mp4", "a/1.mp4", "a/2.mp4"]
