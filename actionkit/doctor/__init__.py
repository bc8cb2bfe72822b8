"""What an installation needs to train, looked at piece by piece (`actionkit doctor`).

A check is a function that yields results. It imports what it looks at when it runs, so that a
library that does not work hurts only its own checks.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout

from actionkit.doctor import devices, installs, machine, packages, plugins, services, video
from actionkit.doctor.result import Check, Result, cause, fault

CHECKS: dict[str, tuple[Check, ...]] = {
    "machine": (machine.python, machine.processor, machine.memory, machine.folders),
    "packages": (packages.requirements, packages.namesakes, packages.imports),
    "installs": (installs.editables, installs.copies, installs.code_in_use),
    "plugins": (plugins.components, plugins.names, plugins.groups, plugins.needs),
    "video": (video.codecs, video.readers),
    "devices": (devices.workers, devices.cuda, devices.gpus, devices.apple),
    "services": (services.wandb, services.weights),
}


def examine(group: str) -> Iterator[Result]:
    """Runs the checks of a group; one that raises is a fault. What imports print is dropped."""
    for check in CHECKS[group]:
        found: list[Result] = []
        silence = redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO())
        try:
            with silence[0], silence[1], warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found.extend(check())
        except (Exception, SystemExit) as error:  # a doctor must not fall ill
            text = f"could not be looked at: {cause(error)}"
            found.append(
                fault(check.__name__, text, "report this as a bug, if nothing else is wrong")
            )
        yield from (result._replace(group=group) for result in found)
