"""Packages of third parties, installed for real, beside broken ones and namesakes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PLUGIN = ROOT / "tests" / "third_party"
POOL = (PLUGIN / "actionkit_range_pool.py").read_text()
RUN = """
import contextlib, io, json, sys
from actionkit.cli import main
results = []
for command in json.loads(sys.argv[1]):
    sys.argv = ["actionkit", *command]
    text, code = io.StringIO(), 0
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    results.append([code, text.getvalue()])
print(json.dumps(results))
"""
LIST = ("list", "aggregators", "--json")


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A folder into which pip has installed the third party's package."""
    folder = tmp_path_factory.mktemp("third_party")
    source, target = folder / "source", folder / "site"  # a copy: building leaves traces
    shutil.copytree(PLUGIN, source, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    options = "--quiet --no-deps --no-build-isolation --no-index --no-warn-conflicts --target"
    python(folder, "-m", "pip", "install", *options.split(), target, source)
    return target


@pytest.fixture(scope="session")
def crowd(site, tmp_path_factory):
    """The same beside two broken packages, a namesake, and one that takes a name of ours."""
    folder = tmp_path_factory.mktemp("crowd") / "site"
    shutil.copytree(site, folder)
    write_package(folder, "broken-pool", "import not_there\n\n\n" + POOL, "broken_pool")
    write_package(folder, "garbled-pool", "def (", "garbled_pool")
    write_package(folder, "Other_Pool", POOL, "range_pool")
    write_package(folder, "mean-pool", "raise RuntimeError\n\n\n" + POOL, "mean")
    return folder


def write_package(site: Path, name: str, code: str, component: str) -> None:
    """A package, version 0.3, as pip leaves it: a module, and metadata with its component."""
    module = name.lower().replace("-", "_")
    (site / f"{module}.py").write_text(code)
    info = site / f"{module}-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.3\n")
    points = f"[actionkit.aggregators]\n{component} = {module}:RangePool\n"
    (info / "entry_points.txt").write_text(points)


def python(site: Path, *arguments) -> str:
    """What a fresh process prints that sees the installed packages."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=site.parent,
        env={**os.environ, "PYTHONPATH": str(site), "COLUMNS": "500"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commands(site: Path, *each) -> list[tuple[int, str]]:
    """Exit code and text of actionkit's commands, run one after the other in a fresh process."""
    return json.loads(python(site, "-c", RUN, json.dumps(each)).splitlines()[-1])


def check(use: str) -> list[str]:
    """The command that checks a recipe with this pooling."""
    aggregate = f"model.streams.rgb.aggregate=[spatial_pool,{{use: '{use}'}}]"
    return ["check", "two_stream", "--no-data", aggregate]


def pooling(listing: str, name: str) -> list[dict[str, str]]:
    return [row for row in json.loads(listing) if row["name"] == name]


def test_it_is_listed_and_used_by_either_name(site):
    (code, listing), *checked = commands(
        site, LIST, check("range_pool"), check("actionkit-range-pool:range_pool")
    )
    assert code == 0
    (row,) = pooling(listing, "range_pool")
    assert (row["distribution"], row["version"]) == ("actionkit-range-pool", "1.0.0")
    assert row["summary"].startswith("Maximum minus minimum of the real steps")
    for code, text in checked:
        assert code == 0, text
        assert "is right" in text


@pytest.mark.slow  # CI does it with the package installed
def test_it_passes_the_kit_by_two_lines(site):
    test = PLUGIN / "test_range_pool.py"
    assert len([line for line in test.read_text().splitlines() if line]) == 2
    options = ("-v", "-n", "0", "-p", "no:cacheprovider", "--rootdir", PLUGIN)
    text = python(site, "-m", "pytest", test, *options)
    for name in ("signature", "padding_content", "gradients", "export"):
        assert f"test_conformance[range_pool-{name}] PASSED" in text


def test_a_broken_package_hurts_only_who_names_it(crowd):
    (code, listing), *right, broken, garbled, twice = commands(
        crowd,
        LIST,
        ["check", "two_stream", "--no-data"],
        check("mean"),  # ours, whoever else has one
        check("actionkit-range-pool:range_pool"),
        check("Other_Pool:range_pool"),
        check("other-pool:range_pool"),
        check("broken_pool"),
        check("garbled_pool"),
        check("range_pool"),
    )
    assert code == 0
    assert len(pooling(listing, "range_pool")) == len(pooling(listing, "mean")) == 2
    assert pooling(listing, "broken_pool")[0]["distribution"] == "broken-pool"
    assert pooling(listing, "garbled_pool")[0]["summary"].startswith("broken: ")
    for code, text in right:
        assert code == 0, text
        assert "is right" in text

    place = r"model\.streams\.rgb\.aggregate\.1 \(command line\): "
    for (code, text), sentence in {
        tuple(broken): r"'broken_pool' comes from broken-pool 0\.3 \(broken_pool:RangePool\) and "
        r"could not be imported: ModuleNotFoundError: No module named 'not_there'",
        tuple(garbled): r"'garbled_pool' comes from garbled-pool 0\.3, but the source",
        tuple(twice): r"aggregator 'range_pool' comes from 2 distributions; 'use: [\w-]+:range_pool"
        r"' or 'use: [\w-]+:range_pool'",
    }.items():
        assert code == 2
        assert re.search(place + sentence, re.sub(r"\s+", " ", text)), text
    assert {"actionkit-range-pool:", "other-pool:"} <= set(re.findall(r"[\w-]+:", twice[1]))
