"""`conformance`: the checks of a distribution's components as one parametrised test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from actionkit import registry
from actionkit.registry import Entry
from actionkit.testing import (
    anything,
    datasets,
    losses,
    metrics,
    part_batches,
    part_fitting,
    part_shapes,
    part_training,
    readers,
    samplers,
    transforms,
)
from actionkit.testing.subject import Check, Subject
from actionkit.testing.verdict import NotSupportedError

PART = (
    *part_shapes.CHECKS,
    *part_batches.CHECKS,
    *part_training.CHECKS,
    *part_fitting.CHECKS,
)
CHECKS: dict[str, tuple[Check, ...]] = {
    "backbones": PART,
    "aggregators": PART,
    "fusions": PART,
    "heads": PART,
    "losses": losses.CHECKS,
    "metrics": metrics.CHECKS,
    "datasets": datasets.CHECKS,
    "readers": readers.CHECKS,
    "samplers": samplers.CHECKS,
    "transforms": transforms.CHECKS,
}


def checks(group: str) -> tuple[Check, ...]:
    """All checks of a group's components."""
    return (anything.signature, anything.import_is_silent, *CHECKS.get(group, ()))


def name_of(check: Check) -> str:
    """A check's name in pytest's output: `pickle_` is `pickle`."""
    return check.__name__.rstrip("_")


def conformance(
    distribution: str,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> Callable[..., None]:
    """A test of every component that a distribution registers, one named case a check.

    `test_conformance = conformance("my-dist")` gives `test_conformance[range_pool-gradients]` and
    so on. Recipes are not components; they have their own `actionkit check`.

    Args:
        distribution: its name, as pip knows it; it must be installed (`pip install -e .`).
        options: by component, options of its constructor: those without default, and any that keep
            it small. A name that two groups share is written `group.name`.
        expected_failures: by case (`range_pool-gradients`), the reason why it fails; it must fail.

    Raises:
        ValueError: a distribution without components; options or expected failures of none.
    """
    import pytest

    subjects = _subjects(distribution, dict(options or {}))
    reasons = dict(expected_failures or {})
    modules = [subject.entry.target.partition(":")[0] for subject in subjects.values()]
    cases = []
    for label, subject in subjects.items():
        for check in checks(subject.entry.group):
            case = f"{label}-{name_of(check)}"
            reason = reasons.pop(case, None)
            marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
            cases.append(pytest.param(check, subject, id=case, marks=marks))
    if reasons:
        raise ValueError(f"expected failures of cases that do not exist: {', '.join(reasons)}")

    @pytest.mark.parametrize(("check", "subject"), cases)
    def test_conformance(check: Check, subject: Subject) -> None:
        __tracebackhide__ = True
        if check is anything.import_is_silent:
            anything.import_all(modules)
        try:
            check(subject)
        except NotSupportedError as error:
            pytest.skip(str(error))

    return test_conformance


def _subjects(distribution: str, options: dict[str, Mapping[str, Any]]) -> dict[str, Subject]:
    """The components of a distribution by name, or by `group.name` where groups share it."""
    owner = registry.normalise(distribution)
    own = [e for e in registry.entries() if e.distribution == owner and e.group != "recipes"]
    if not own:
        known = ", ".join(sorted({e.distribution for e in registry.entries()}))
        raise ValueError(
            f"'{distribution}' registers no component here; those that do: {known}. "
            "Is it installed (pip install -e .)?"
        )
    uses = Counter(entry.name for entry in own)

    def label(entry: Entry) -> str:
        return entry.name if uses[entry.name] == 1 else f"{entry.group}.{entry.name}"

    labels = {label(entry): entry for entry in own}
    if strange := options.keys() - labels.keys():
        raise ValueError(
            f"options of what '{distribution}' does not register: {', '.join(sorted(strange))}; "
            f"it registers {', '.join(labels)}"
        )
    return {name: Subject(entry, options.get(name)) for name, entry in labels.items()}
