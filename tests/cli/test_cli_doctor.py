"""`actionkit doctor`: a table, cures at the end, and an exit code that scripts can use."""

import json
import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from actionkit import doctor
from actionkit.cli.doctor import doctor as command
from actionkit.doctor.result import fault, ok, warning

GOOD = ok("good", "is well [x], with a bracket")
WARN = warning("odd", "is odd", "pip install odd")
BAD = fault("bad", "is bad", f"pip install {'a-long-name-' * 8}")
WORSE = fault("bad", "is bad elsewhere", BAD.cure)


def invoke(monkeypatch, results, *arguments):
    checks = {"some": (lambda: iter(results[:2]),), "others": (lambda: iter(results[2:]),)}
    monkeypatch.setattr(doctor, "CHECKS", checks)
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80"})


@pytest.mark.parametrize(("results", "code", "count"), [
    ([GOOD], 0, "1 ok, 0 faults, 0 warnings"),
    ([GOOD, WARN], 0, "1 ok, 0 faults, 1 warning"),
    ([GOOD, WARN, BAD], 1, "1 ok, 1 fault, 1 warning"),
    ([GOOD, WARN, BAD, WORSE], 1, "1 ok, 2 faults, 1 warning"),
])  # fmt: skip
def test_only_a_fault_exits_1(monkeypatch, results, code, count):
    done = invoke(monkeypatch, results)
    assert done.exit_code == code
    assert count in done.output.splitlines()


def test_cures_stand_at_the_end_on_a_line_each_faults_first(monkeypatch):
    lines = invoke(monkeypatch, [GOOD, WARN, BAD, WORSE]).output.splitlines()
    assert lines[-2:] == [f"✗ bad: {BAD.cure}", "! odd: pip install odd"]  # one cure, one line
    assert "some" in lines[0]
    assert [line.split()[:2] for line in lines[1:3]] == [["✓", "good"], ["!", "odd"]]
    assert "[x]" in lines[1]
    assert max(map(len, lines[:-2])) <= 80


def test_json_is_all_that_stdout_holds(monkeypatch):
    done = invoke(monkeypatch, [GOOD, WARN, BAD], "--json")
    assert done.exit_code == 1
    first, second, third = json.loads(done.stdout)
    assert first == {"group": "some", "name": "good", "state": "ok", "text": GOOD.text, "cure": ""}
    assert (second["state"], third["group"], third["cure"]) == ("warning", "others", BAD.cure)


def test_this_installation_can_be_looked_at(tmp_path):
    """A fresh process, beside a plugin that prints, breaks and leaves when it is imported."""
    info = tmp_path / "loud_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loud-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[actionkit.heads]\nloud = loud_plugin:Loud\n")
    (tmp_path / "loud_plugin.py").write_text("print('[LOUD')\nraise SystemExit('gone')\n")
    code = "import typer; from actionkit.cli.doctor import doctor; typer.run(doctor)"
    done = subprocess.run(
        [sys.executable, "-c", code, "--json"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "ACTIONKIT_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert {row["group"] for row in found} == set(doctor.CHECKS)
    assert not [row for row in found if "could not be looked at" in row["text"]]
    (loud,) = [row for row in found if row["name"] == "loud-plugin"]
    assert (loud["state"], loud["text"]) == ("fault", "loud: SystemExit: gone")
    assert not (tmp_path / "cache").exists()


def test_nothing_heavy_is_imported_before_a_check_runs():
    code = (
        "import sys, actionkit.cli.doctor, actionkit.doctor\n"
        "assert not {'torch', 'av', 'cv2', 'wandb', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
