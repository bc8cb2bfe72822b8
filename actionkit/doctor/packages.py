"""The libraries actionkit stands on: there, new enough, whole, and not in one another's way."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator

from actionkit.doctor import installed
from actionkit.doctor.result import Result, cause, fault, ok, warning
from actionkit.registry import OWN, normalise

# what is imported -> what brings it, where that has another name or cannot come alone
MODULES = {
    "torch": "torch torchvision",
    "torchvision": "torch torchvision",  # both must be built for one CUDA
    "lightning.pytorch": "lightning",
    "timm": "timm",
    "kornia": "kornia",
    "cv2": "opencv-python-headless",
    "av": "av",
}
SHARED_MODULES = ("av", "cv2", "decord", "lightning", "timm", "torch", "torchvision")


def requirements() -> Iterator[Result]:
    """Every dependency in the version that our own metadata ask for."""
    dist = installed.concerned().get(OWN)
    if dist is None:
        text = "actionkit runs from a folder, but is not installed, so it has no components"
        yield fault("actionkit", text, "pip install -e /path/to/actionkit")
        return
    unmet = list(installed.unmet(dist))
    for lack in unmet:
        cure = f"pip install '{lack.requirement.name}{lack.requirement.specifier}'"
        yield fault(lack.requirement.name, str(lack), cure)
    bad = {lack.requirement.name for lack in unmet}
    names = [need.name for need in installed.requirements(dist) if need.name not in bad]
    yield ok("versions", ", ".join(f"{name} {installed.version(name)}" for name in names))


def namesakes() -> Iterator[Result]:
    """Distributions that bring the same module overwrite each other's files."""
    owners = importlib.metadata.packages_distributions()
    dist = installed.concerned().get(OWN)
    wanted = {normalise(need.name) for need in installed.requirements(dist)} if dist else set()
    for module in SHARED_MODULES:
        found = sorted({normalise(name) for name in owners.get(module, ())})
        if len(found) > 1:
            keep = next((name for name in found if name in wanted), found[0])
            text = f"{' and '.join(found)} both bring the module {module}, in the same place"
            yield warning(module, text, f"pip uninstall -y {' '.join(found)}; pip install {keep}")


def imports() -> Iterator[Result]:
    """The large libraries can be imported together."""
    good = []
    for module, bringer in MODULES.items():
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            continue  # `requirements` says so
        try:
            importlib.import_module(module)
            good.append(module.partition(".")[0])
        except (Exception, SystemExit) as error:
            cure = f"pip install --upgrade --force-reinstall {bringer}"
            yield fault(module, f"cannot be imported: {cause(error)}", cure)
    yield ok("imports", ", ".join(good))
