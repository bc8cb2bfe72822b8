"""A run goes on with the recipe it began with."""

import pytest
from makers import Listed

from actionkit.contracts import Record
from actionkit.errors import NoRunError
from actionkit.training.resume import (
    ChangedRecipeError,
    clips_of,
    find_checkpoint,
    require_same,
    told,
)

RECIPE = {
    "data": {"dataset": {"use": "folder"}, "batch": 8, "workers": 2},
    "model": {"streams": {"rgb": {"head": "linear"}}},
    "optimizer": {"use": "adamw", "lr": 0.1},
    "trainer": {"max_epochs": 3},
}


def data(*classes, clips=3):
    made = Listed([Record(str(i), {}, i % len(classes)) for i in range(clips)])
    made.classes = list(classes)
    return made


CONTENT = {"recipe": {"recipe": RECIPE, "name": "x"}, "classes": ["a", "b"]}


def recipe(**changes):
    """RECIPE with section.key replaced."""
    wanted = {name: dict(section) for name, section in RECIPE.items()}
    for key, value in changes.items():
        section, name = key.split("__")
        wanted[section][name] = value
    return wanted


def test_the_same_recipe_goes_on():
    assert require_same(CONTENT, recipe(), data("a", "b")) == []


def test_what_changes_no_number_may_change():
    wanted = recipe(data__workers=0, trainer__max_epochs=9)
    found = require_same(CONTENT, wanted, data("a", "b"))
    assert told(found) == "data.workers was 2, is 0; trainer.max_epochs was 3, is 9"


@pytest.mark.parametrize(("change", "line"), [
    ({"optimizer__lr": 0.2},
     "  optimizer.lr was 0.1, is 0.2: if that is meant, --override-on-resume optimizer.lr"),
    ({"optimizer__use": "sgd"},
     "  optimizer.use was adamw, is sgd: it cannot change in a run; start another one (--new)"),
    ({"data__batch": 4},
     "  data.batch was 8, is 4: it cannot change in a run; start another one (--new)"),
])  # fmt: skip
def test_other_changes_are_refused_each_with_its_cure(change, line):
    with pytest.raises(ChangedRecipeError) as caught:
        require_same(CONTENT, recipe(**change), data("a", "b"))
    assert line in str(caught.value).splitlines()
    assert caught.value.exit_code == 2


def test_other_clips_make_it_another_run():
    kept = {**CONTENT, "clips": clips_of(data("a", "b"))}
    assert require_same(kept, recipe(), data("a", "b")) == []
    with pytest.raises(ChangedRecipeError, match=r"clips to train on was 3 clips \w+, is 4 clips"):
        require_same(kept, recipe(), data("a", "b", clips=4))


def test_all_that_forbids_comes_at_once():
    wanted = recipe(optimizer__lr=0.2, data__batch=4)
    with pytest.raises(ChangedRecipeError) as caught:
        require_same(CONTENT, wanted, data("a", "b", "c"))
    said = str(caught.value)
    assert all(key in said for key in ("optimizer.lr", "data.batch", "3 classes (a, b, c)"))


def test_what_is_asked_for_may_change_but_not_what_never_can():
    wanted = recipe(optimizer__lr=0.2)
    assert told(require_same(CONTENT, wanted, data("a", "b"), ["optimizer"])) == (
        "optimizer.lr was 0.1, is 0.2"
    )
    with pytest.raises(ChangedRecipeError):
        require_same(CONTENT, recipe(data__batch=4), data("a", "b"), ["data.batch"])


def test_a_run_is_found_by_its_folder_or_a_checkpoint_in_it(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "recipe.yaml").touch()
    file = run / "checkpoints" / "best.ckpt"
    with pytest.raises(NoRunError, match=r"there is no checkpoint .*best\.ckpt"):
        find_checkpoint(file)
    file.touch()
    assert find_checkpoint(run) == (run, None)
    assert find_checkpoint(file) == (run, file)
    with pytest.raises(NoRunError, match=r"cannot be resumed: .* is no run folder"):
        find_checkpoint(tmp_path)
