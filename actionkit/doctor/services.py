"""What recipes may use over the network. Only files and the environment are looked at."""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from actionkit.doctor import installed
from actionkit.doctor.result import Result, ok, warning


def wandb() -> Iterator[Result]:
    """Whether runs can be sent to Weights & Biases. Of a key only its presence is looked at."""
    version = installed.version("wandb")
    if version is None:
        return  # `requirements` says so
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        text = f"WANDB_MODE is {mode}"
    elif os.environ.get("WANDB_API_KEY"):
        text = "WANDB_API_KEY is set"
    elif _in_netrc(host):
        text = f"logged in to {host}"
    else:
        text = f"not logged in to {host}; before logging there: wandb login"
    yield ok("wandb", f"{version}, {text}")


def _in_netrc(host: str) -> bool:
    own = os.environ.get("NETRC")
    for file in [Path(own)] if own else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if netrc.netrc(file).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def weights() -> Iterator[Result]:
    """Where timm's pretrained weights are kept, and whether new ones may be fetched."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    count = len(list(folder.glob("models--*")))
    text = f"{count} model{'' if count == 1 else 's'} in {folder}"
    if constants.HF_HUB_OFFLINE and not count:
        text += ", and HF_HUB_OFFLINE forbids fetching any"
        yield warning("weights", text, "unset HF_HUB_OFFLINE, or: pretrained: false")
        return
    yield ok("weights", text + (", offline" if constants.HF_HUB_OFFLINE else ""))
