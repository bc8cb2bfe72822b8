"""Ctrl+C is told in one word and one exit code, whoever answers it first."""

import sys

import pytest

from actionkit import cli, registry


def interrupt():
    raise KeyboardInterrupt


def lightning_s_way():
    """It catches the interruption, and ends the process as failed."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


@pytest.mark.parametrize("interrupted", [interrupt, lightning_s_way])
def test_control_c_is_told_and_has_a_code_of_its_own(monkeypatch, capsys, interrupted):
    monkeypatch.setattr(sys, "argv", ["actionkit", "list"])
    monkeypatch.setattr(registry, "entries", interrupted)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_an_end_without_an_interruption_keeps_its_code(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["actionkit", "list"])
    monkeypatch.setattr(registry, "entries", lambda: sys.exit(1))
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    assert "interrupted" not in capsys.readouterr().err
