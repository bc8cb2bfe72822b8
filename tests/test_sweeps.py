"""Sweeps call the command line, and what they set is in the recipe."""

import pytest
import yaml
from conftest import ROOT

from actionkit.validate import read

SWEEPS = sorted((ROOT / "recipes" / "sweeps").glob("*.yaml"))


def first(parameter):
    return parameter["values"][0] if "values" in parameter else parameter["min"]


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_a_trial_is_a_right_command(file):
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    sweep = yaml.safe_load(file.read_text())
    args = {name: {"value": first(p)} for name, p in sweep["parameters"].items()}
    filled = utils.create_sweep_command_args({"args": args})["args_no_hyphens"]
    command = []
    for part in sweep["command"]:
        command += {"${program}": [sweep["program"]], "${args_no_hyphens}": filled}.get(
            part, [part]
        )
    program, verb, recipe, *overrides = command
    assert (program, verb) == ("actionkit", "fit")
    assert len(overrides) == 1 + len(sweep["parameters"])
    tree, plan, problems = read(recipe, overrides)
    assert [str(problem) for problem in problems] == []
    assert "wandb" in [node.use for node in plan.logger]
    known = {
        key for key in sweep["parameters"] if tree.place(tuple(key.split("."))) == "command line"
    }
    assert known == set(sweep["parameters"])
