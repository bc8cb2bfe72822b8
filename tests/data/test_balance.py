import re

import pytest
from makers import Listed

from actionkit.contracts import Record
from actionkit.data.balance import balanced
from actionkit.errors import RunError


def dataset(*targets):
    return Listed(Record(f"v{i}", {}, target) for i, target in enumerate(targets))


def test_every_class_has_the_same_sum():
    assert balanced(dataset(0, 0, 0, 1, 2, 2), 1.0) == pytest.approx(
        [1 / 3] * 3 + [1, 1 / 2, 1 / 2]
    )
    roots = balanced(dataset(0, 0, 0, 0, 1), 0.5)
    assert sum(roots[:4]) == pytest.approx(2 * roots[4])
    assert set(balanced(dataset(0, 0, 1), 0.0)) == {1.0}


def test_shares_that_are_one_class_count_as_it():
    assert balanced(dataset([0.0, 1.0], [1.0, 0.0], 1), 1.0) == [0.5, 1.0, 0.5]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ({"verb": 0, "noun": 1}, "has a target for each of verb, noun"),
        (-1, "has no label"),
        ([1.0, 1.0], "belongs to several classes"),
        ([0.5, 0.5], "belongs to several classes"),
        ([float("nan"), float("nan")], "belongs to several classes"),
    ],
)
def test_refuses(target, reason):
    sentence = f"needs one class a clip, but 'v1' {reason}.*leave data.balance out"
    with pytest.raises(RunError, match=sentence):
        balanced(dataset(0, target), 1.0)


def test_the_sentence_names_the_clip():
    with pytest.raises(RunError, match=re.escape("'v0' has no label")):
        balanced(dataset(-1), 1.0)
