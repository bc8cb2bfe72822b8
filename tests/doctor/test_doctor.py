"""What a check may do: anything, and the others still run."""

import sys
import warnings

import pytest

from actionkit import doctor
from actionkit.doctor import result


def good():
    print("a library prints")
    print("and complains", file=sys.stderr)
    warnings.warn("and warns", stacklevel=1)
    yield result.ok("good", "is well")


def raising():
    yield result.ok("first", "is well")
    raise RuntimeError("two\nlines")


def leaving():
    yield from ()
    sys.exit("a library has left")


@pytest.fixture
def checks(monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", {"some": (raising, leaving, good)})


def test_a_check_that_raises_is_a_fault_and_the_next_one_runs(checks):
    first, raised, left, last = doctor.examine("some")
    assert (first.name, first.state, last.name, last.state) == ("first", "ok", "good", "ok")
    assert raised[:3] == ("raising", "fault", "could not be looked at: RuntimeError: two lines")
    assert left[:3] == (
        "leaving",
        "fault",
        "could not be looked at: SystemExit: a library has left",
    )
    assert raised.cure
    assert {r.group for r in (first, raised, left, last)} == {"some"}


@pytest.mark.filterwarnings("error")
def test_what_libraries_print_while_they_are_looked_at_is_dropped(checks, capsys):
    assert len(list(doctor.examine("some"))) == 4
    assert capsys.readouterr() == ("", "")


def test_every_check_says_what_it_looks_at():
    checks = [check for group in doctor.CHECKS.values() for check in group]
    assert len({check.__name__ for check in checks}) == len(
        checks
    )  # the name of a check that fails
    assert all(check.__doc__ for check in checks)
