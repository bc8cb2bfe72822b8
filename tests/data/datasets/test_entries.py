import json

import pytest

from actionkit.data.datasets.entries import Entry, read_entries
from actionkit.data.datasets.lists import Problems


def read(folder, name, text):
    """The entries of a list, and what is wrong with it."""
    path = folder / name
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    problems = Problems()
    entries = read_entries(path, problems)
    return entries, [str(p).replace(f"{path}", name) for p in problems.found]


def test_txt_takes_the_last_word_as_label(tmp_path):
    text = "a/b.mp4 12\n\nmy clip (1).avi\tjump \nno_suffix run\n\udce9.mp4  3\n"
    assert read(tmp_path, "x.txt", text) == (
        [
            Entry(1, "a/b.mp4", "12"),
            Entry(3, "my clip (1).avi", "jump"),
            Entry(4, "no_suffix", "run"),
            Entry(5, "\udce9.mp4", "3"),
        ],
        [],
    )


def test_txt_knows_a_path_without_label(tmp_path):
    entries, _ = read(tmp_path, "x.txt", "a.mp4\nmy clip.MP4\nfolder/clip")
    assert entries == [Entry(1, "a.mp4"), Entry(2, "my clip.MP4"), Entry(3, "folder/clip")]


def test_csv_without_header(tmp_path):
    text = 'a.mp4,run\r\n"b, c.mp4", jump\r\n\r\nd.mp4\r\ne.mp4,\r\n'
    assert read(tmp_path, "x.csv", text) == (
        [
            Entry(1, "a.mp4", "run"),
            Entry(2, "b, c.mp4", "jump"),
            Entry(4, "d.mp4"),
            Entry(5, "e.mp4"),
        ],
        [],
    )


def test_csv_with_header(tmp_path):
    text = "\ufeffLabel,path,end,start,id,group\n3,a.mp4,4.5,2,x,g\n,b.mp4,,,,\n,,,,,\n"
    assert read(tmp_path, "x.csv", text) == (
        [Entry(2, "a.mp4", "3", 2.0, 4.5, "x", "g"), Entry(3, "b.mp4")],
        [],
    )


def test_csv_lines_are_those_where_rows_begin(tmp_path):
    entries, _ = read(tmp_path, "x.csv", 'path,label\n"a\n.mp4",1\nb.mp4,2\n')
    assert [entry.line for entry in entries] == [2, 4]


def test_json_in_any_layout(tmp_path):
    values = [
        {"path": "a.mp4", "label": 3},
        {"label": "run", "path": "b.mp4", "start": 0, "end": 2.5, "id": "x", "group": 7},
        {"path": "c.mp4", "label": None},
    ]
    for indent, lines in ((None, (1, 1, 1)), (1, (2, 6, 14))):
        assert read(tmp_path, "x.json", json.dumps(values, indent=indent)) == (
            [
                Entry(lines[0], "a.mp4", "3"),
                Entry(lines[1], "b.mp4", "run", 0.0, 2.5, "x", "7"),
                Entry(lines[2], "c.mp4"),
            ],
            [],
        )


@pytest.mark.parametrize(
    ("name", "text", "sentences"),
    [
        ("x.txt", " \n", ["x.txt: expected clips, but the list is empty"]),
        ("x.csv", "", ["x.csv: expected clips, but the list is empty"]),
        ("x.csv", "path,label\n", ["x.csv: expected clips, but the list is empty"]),
        ("x.json", "[ ]", ["x.json: expected clips, but the list is empty"]),
        ("x.xml", "", ["x.xml: expected a file named *.txt or *.csv or *.json"]),
        (
            "x.csv",
            "label,youtube_id,time_start,time_end,split\n",
            [
                "x.csv:1: expected the columns path, and each at most once label, start, end, id, "
                "group; got label, youtube_id, time_start, time_end, split"
            ],
        ),
        (
            "x.csv",
            "path,path\n",
            [
                "x.csv:1: expected the columns path, and each at most once label, start, end, id, "
                "group; got path, path"
            ],
        ),
        (
            "x.csv",
            "a,1,2\nb,1\n",
            ["x.csv:1: expected path,label, got 3 cells: a,1,2"],
        ),
        (
            "x.csv",
            "path,label,start,end\na,1,3,2\nb,1,-1,\nc,1,x,\n,1,,\nd,1,,0\ne,1,nan,\nf,1\n",
            [
                "x.csv:2: expected start before end, got 3 and 2",
                "x.csv:3: expected seconds from 0 as start, got '-1'",
                "x.csv:4: expected seconds from 0 as start, got 'x'",
                "x.csv:5: has no path",
                "x.csv:6: expected start before end, got 0 and 0",
                "x.csv:7: expected seconds from 0 as start, got 'nan'",
                "x.csv:8: expected path,label,start,end, got 2 cells: f,1",
            ],
        ),
        (
            "x.csv",
            'a,1\n"b,2\nc,3\n',
            ["x.csv:2: the row that begins here is no csv: unexpected end of data"],
        ),
        (
            "x.json",
            '[\n{"path": "a"},\n3,\n{"paht": "b"},\n{"path": "c", "label": 1.5},\n'
            '{"path": "d", "start": true},\n{"label": 1}]',
            [
                "x.json:3: expected an object with path and label, got 3",
                "x.json:4: expected the keys path, label, start, end, id, group; got paht",
                "x.json:5: expected a text as label, got 1.5",
                "x.json:6: expected seconds from 0 as start, got True",
                "x.json:7: has no path",
            ],
        ),
        ("x.json", '\n{"a": 1}', [
            'x.json:2: no JSON: expected a list of objects, [{"path": ...}]']),
        ("x.json", '[{"path": "a"}\n{"path": "b"}]', [
            "x.json:2: no JSON: expected ',' or ']', and nothing behind"]),
        ("x.json", '[\n{"path": "a"},\n]', ["x.json:3: no JSON: Expecting value"]),
        ("x.json", '[\n{"path": "a"}\n', [
            "x.json:3: no JSON: expected ',' or ']', and nothing behind"]),
        ("x.json", '[{"path": "a"}]\n]', [
            "x.json:1: no JSON: expected ',' or ']', and nothing behind"]),
        ("x.json", '[{"path": "a\n', ["x.json:1: no JSON: Invalid control character at"]),
    ],
)  # fmt: skip
def test_all_that_is_wrong_comes_with_its_line(tmp_path, name, text, sentences):
    assert read(tmp_path, name, text)[1] == sentences


def test_sound_entries_beside_wrong_ones_are_given(tmp_path):
    entries, wrong = read(tmp_path, "x.csv", "path,start\na,0\nb,-1\nc,1\n")
    assert [entry.path for entry in entries] == ["a", "c"]
    assert len(wrong) == 1


def test_unreadable_lists_are_said(tmp_path):
    (tmp_path / "x.csv").write_text("a,1", encoding="utf-16")
    problems = Problems()
    assert read_entries(tmp_path / "x.csv", problems) == []
    with pytest.raises(ValueError, match="is written in UTF-16; save it as UTF-8"):
        problems.require_none()
