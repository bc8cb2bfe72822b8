"""The rules of the house: sizes, directions, names, and what importing costs."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from actionkit import registry, schema

SOURCES = sorted((ROOT / "actionkit").rglob("*.py"))
PARTS = ("backbones", "aggregators", "fusions", "heads", "losses")


def imports(path: Path) -> set[str]:
    """Modules of actionkit that a file imports when it is imported."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("actionkit"):
            found.add(node.module)
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {n.name for n in node.names if n.name.startswith("actionkit")}
    return found


def room(path: Path) -> str:
    return path.relative_to(ROOT / "actionkit").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_a_room(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", [p for p in SOURCES if room(p) in PARTS], ids=lambda p: p.stem)
def test_parts_know_only_contracts_layers_and_their_own_folder(path):
    allowed = ("actionkit.contracts", "actionkit.layers", f"actionkit.{room(path)}")
    assert all(module.startswith(allowed) for module in imports(path))


# A room may import those to its right and below, never one that stands before it.
ORDER = (
    "cli", "doctor", "extraction", "prediction", "bench", "run", "testing", "builder", "tasks",
    "training", "evaluation", "data", "network", "validate", "grammar", "recipe", "values",
    "schema", "registry", "layers", "contracts", "files", "differences", "errors",
)  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    here = room(path)
    if here in ("__init__", "__main__"):
        return  # the front doors open all rooms, but only when asked (the test about torch below)
    rank = ORDER.index(here) if here in ORDER else ORDER.index("network")
    for module in imports(path):
        other = module.split(".")[1] if "." in module else "__init__"
        if other == here or other not in ORDER:
            continue
        assert ORDER.index(other) > rank, f"{path.name} imports {module}"


def test_entry_points_of_the_project_all_load():
    entries = [e for e in registry.entries() if e.distribution == registry.OWN]
    assert {e.name for e in entries} >= {"timm", "lstm", "average", "probes", "pyav", "segments"}
    for entry in entries:
        assert isinstance(registry.load(entry), type)
        assert schema.parameters(entry) is not None
        assert schema.summary(entry)


def test_entry_points_are_sorted_and_named_plainly():
    points = importlib.metadata.distribution("actionkit").entry_points
    ours = [p for p in points if p.group.startswith("actionkit.")]
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", p.name) for p in ours)
    assert len({(p.group, p.name) for p in ours}) == len(ours)


@pytest.mark.parametrize("code", [
    "import actionkit",
    "import actionkit.cli",
    "from actionkit import recipe, validate; validate.validate(recipe.load('two_stream'))",
    "from actionkit import registry, schema; [schema.parameters(e) for e in registry.entries()]",
    "import sys; sys.argv = ['actionkit', 'list']; from actionkit.cli import main\n"
    "try: main()\nexcept SystemExit: pass",
])  # fmt: skip
def test_looking_around_imports_no_torch(code):
    check = "import sys; assert 'torch' not in sys.modules, 'torch was imported'"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{check}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_readme_holds_exactly_the_two_lines_that_ci_runs():
    lines = re.findall(r"^python3? -m venv.*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(lines) == 2
    assert "actionkit fit recipes/two_stream.yaml" in lines[0]
    assert "pytest" in lines[1]


def test_readme_speaks_of_things_that_exist():
    text = (ROOT / "README.md").read_text()
    names = {e.name for e in registry.entries()}
    used = set(re.findall(r"use: ([a-z_0-9]+)", text))
    assert used <= names | {"range_pool"}
    for image in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (ROOT / image).is_file()
    for module in re.findall(r"from (actionkit[\w.]*) import", text):
        assert (ROOT / module.replace(".", "/")).exists() or (
            ROOT / f"{module.replace('.', '/')}.py"
        ).exists()


def test_no_path_of_a_machine_is_in_the_project():
    shown = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if shown.returncode:
        pytest.skip("not a git checkout")
    for name in shown.stdout.split():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".yaml") and path.name != "test_house.py":
            assert not re.search(r"(?<![\w.])/(work|home|root|Users)/\w", path.read_text()), name


def test_the_readme_s_recipe_is_right(tmp_path):
    from actionkit import builder

    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for number, text in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        assert [str(p) for p in builder.blueprint(path, data=False).problems] == []


def test_the_readme_s_component_works():
    import torch

    from actionkit.contracts import Features, Shape

    (text,) = re.findall(
        r"```python\n(import torch.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    names = {}
    exec(text, names)
    part = names["RangePool"](Shape(None, 2, 1, 1))
    x = torch.tensor([[1.0, 5.0], [4.0, 5.5], [99.0, -99.0]])[None, :, :, None, None]
    result = part(Features(x, torch.tensor([[True, True, False]])))
    assert result.x.flatten().tolist() == [3.0, 0.5]
    assert part.out == Shape(1, 2, 1, 1)
