"""The kit itself: what breaks a rule is caught by the check of that name, and by no other."""

import pytest
import torch
from videos import moving_frames, write_video

from actionkit.registry import Entry
from actionkit.testing import anything, conformance
from actionkit.testing.kit import checks, name_of
from actionkit.testing.subject import Subject
from actionkit.testing.verdict import NotConformingError, NotSupportedError

SLOW = ("import_is_silent", "compile", "export")  # tried apart, below

MISFITS = {
    "aggregators": {
        "Good": "",
        "InPlace": "no_inplace",
        "BatchNorm": "padding_amount",
        "PlainMean": "padding_amount",
        "SeesPadding": "padding_content padding_amount gradients",
        "WrongMask": "mask_is_true padding_amount",
        "ShapeLie": "shape_is_true refuses",
        "NoMeta": "meta",
        "GlobalNoise": "deterministic",
        "Clock": "deterministic",
        "Detached": "gradients",
        "NotANumber": "gradients",
        "Hidden": "state_dict",
        "Lambda": "pickle",
        "Halves": "bf16",
        "Neighbours": "batch_permutation",
        "Forgetful": "extra_fields_pass",
        "Asserts": "refuses",
        "Shouts": "refuses",
        "TakesAll": "refuses",
        "Anything": "signature",
        "Positional": "signature",
        "FixedLength": "",
        "Positions": "padding_amount",
    },
    "fusions": {"First": "extra_fields_pass gradients"},
    "backbones": {"Crossed": "", "OneLost": "shape_is_true refuses"},
    "heads": {"SoftHead": "shape_is_true refuses"},
    "losses": {"Sum": "padding_content probabilities"},
    "metrics": {"Constant": "perfect_and_worst"},
    "samplers": {"OutOfRange": "in_range", "WholeVideo": "pure in_range"},
    "transforms": {
        "TwoDraws": "pure one_draw same_on_both_positions",
        "Later": "one_draw",
        "FirstDraw": "same_on_both_positions",
        "OverWrites": "no_inplace",
        "Smaller": "in_range",
    },
    "readers": {"OffByOne": "exact odd", "Leaks": "errors no_handles", "Holds": "no_handles"},
    "datasets": {"Doubles": "records picklable no_handles"},
}


def subject(group, name, module="misfits", **options) -> Subject:
    return Subject(Entry(group, name.lower(), f"{module}:{name}", "misfits", "0"), options)


def caught(component: Subject) -> dict[str, str]:
    """The checks that a component fails, and what they say."""
    said = {}
    for check in checks(component.entry.group):
        if name_of(check) not in SLOW:
            try:
                check(component)
            except Exception as error:
                said[name_of(check)] = f"{type(error).__name__}: {error}"
    return said


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, names in MISFITS.items() for name in names]
)
def test_each_is_caught_by_its_check(group, name, tmp_path):
    options = {}
    if name == "Doubles":
        for video in ("run/a", "run/b", "jump/a", "jump/b"):
            write_video(tmp_path / f"{video}.mp4", moving_frames(2))
        options = {"root": tmp_path}
    said = caught(subject(group, name, **options))
    assert set(said) == set(MISFITS[group][name].split()), said


def sentence(component: Subject, name: str) -> str:
    check = next(c for c in checks(component.entry.group) if name_of(c) == name)
    with pytest.raises(NotConformingError) as error:
        check(component)
    return str(error.value)


def test_what_it_says_has_numbers():
    said = sentence(subject("aggregators", "ShapeLie"), "shape_is_true")
    assert "a clip leaves as [7, 4, 1, 1], but out says [7, 5, 1, 1]" in said
    said = sentence(subject("aggregators", "PlainMean"), "padding_amount")
    assert said.startswith("in training, with 4 more padded steps, a real step changes: off by up")
    said = sentence(subject("samplers", "OutOfRange"), "in_range")
    assert said.startswith("of 1 frames at 10 fps, from None to None s: indices go from 0 to 3")


def test_a_mask_of_numbers_is_none():
    said = sentence(subject("aggregators", "ByteMask"), "mask_is_true")
    assert said == "the mask is torch.uint8, not bool"


def test_a_part_that_takes_no_toy_shape_fails():
    said = sentence(subject("aggregators", "Picky"), "gradients")
    assert said.startswith("takes none of the kit's toy shapes, so nothing is shown")
    assert "takes 77 channels" in said


def test_options_without_default_are_asked_for():
    said = sentence(subject("aggregators", "Required"), "meta")
    assert "options={'required': {'size': ...}}" in said
    assert caught(subject("aggregators", "Required", size=3)) == {}


def test_what_cannot_be_shown_fails():
    said = sentence(subject("aggregators", "Positions"), "padding_amount")
    assert said.startswith(
        "takes neither clips of a varying length nor, with the same weights, 11x"
    )
    assert said.find("so nothing is shown") > 0


def test_a_loud_import_is_heard(request):
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))  # which loud changes
    anything.import_all(["loud", "misfits"])
    loud = subject("aggregators", "Loud", "loud")
    said = sentence(loud, "import_is_silent")
    assert "prints 'loading weights'" in said
    assert "changes torch's generator; it changes torch's default dtype" in said
    assert "Aggregator" in sentence(loud, "signature")
    anything.import_is_silent(subject("aggregators", "Good"))


def test_what_compilers_refuse_is_reported():
    by_name = {name_of(check): check for check in checks("backbones")}
    good = subject("aggregators", "Good")
    by_name["compile"](good)
    by_name["export"](good)
    with pytest.raises(NotSupportedError, match="export refuses it"):
        by_name["export"](subject("aggregators", "Asks"))


def test_its_own_arguments_are_checked():
    with pytest.raises(ValueError, match="'nobody' registers no component here; those that do: ac"):
        conformance("nobody")
    with pytest.raises(ValueError, match=r"does not register: ltsm; it registers .*lstm"):
        conformance("actionkit", options={"ltsm": {"hidden": 3}})
    with pytest.raises(ValueError, match="cases that do not exist: lstm-nothing"):
        conformance("actionkit", expected_failures={"lstm-nothing": "because"})


def test_an_expected_failure_must_fail():
    test = conformance("actionkit", expected_failures={"mean-pickle": "a reason"})
    (mark,) = test.pytestmark
    case = next(case for case in mark.args[1] if case.id == "mean-pickle")
    (expected,) = case.marks
    assert expected.name == "xfail"
    assert expected.kwargs == {"reason": "a reason", "strict": True}
