"""Two trees differ in their leaves."""

from actionkit.differences import NOTHING, differences


def test_every_leaf_that_differs_is_told_by_its_key():
    there = {"a": {"b": [1, {"c": 2}], "same": True}, "gone": 1, "kind": {}}
    wanted = {"a": {"b": [1, {"c": 3}, 4], "same": True}, "kind": {"x": 1}}
    assert differences(there, wanted) == [
        ("a.b.1.c", 2, 3),
        ("gone", 1, NOTHING),
        ("kind", {}, NOTHING),
        ("a.b.2", NOTHING, 4),
        ("kind.x", NOTHING, 1),
    ]


def test_equal_trees_do_not_differ():
    tree = {"a": [1, 2.5, None, "x"], "b": {}}
    assert differences(tree, {"b": {}, "a": [1, 2.5, None, "x"]}) == []
