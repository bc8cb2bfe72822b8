"""Decoders, and readers tried on small videos that are written on the spot."""

from __future__ import annotations

from collections.abc import Iterator

from actionkit import registry, schema
from actionkit.doctor.result import Result, cause, fault, ok

DECODERS = ("h264", "hevc", "mpeg4", "vp9")
DEFAULT = "pyav"  # what recipes use that name no reader
ENCODERS = ("libx264", "mpeg4")  # of the embedded data set, and of clips for loggers
UNTRIED = "was not tried"
REINSTALL = "pip install --force-reinstall --only-binary av av"  # its wheels hold a whole FFmpeg


def codecs() -> Iterator[Result]:
    """The FFmpeg inside PyAV, and what it can decode and encode."""
    import av
    from av.codec import Codec

    lacking = []
    for names, mode in ((DECODERS, "r"), (ENCODERS, "w")):
        for name in names:
            try:
                Codec(name, mode)  # type: ignore[arg-type]
            except ValueError:
                lacking.append(f"no {name} {'decoder' if mode == 'r' else 'encoder'}")
    text = f"PyAV {av.__version__} with FFmpeg {getattr(av, 'ffmpeg_version_info', '?')}"
    if lacking:
        yield fault("ffmpeg", f"{text}: {', '.join(lacking)}", REINSTALL)
    else:
        yield ok("ffmpeg", f"{text}: {', '.join(DECODERS)}")


def readers() -> Iterator[Result]:
    """Every registered reader gives the right frames of an MP4 and an AVI, both with B-frames."""
    found = {}
    for entry in registry.entries():
        if entry.group == "readers":
            found[entry] = _wrong(entry)
    good = [entry.name for entry, wrong in found.items() if wrong == ""]
    cure = f"data.reader={DEFAULT if DEFAULT in good else good[0]}" if good else REINSTALL
    for entry, wrong in found.items():
        if wrong is None:
            continue
        name = entry.name
        if not wrong:
            yield ok(name, "reads what it takes of H.264 in MP4 and MPEG-4 in AVI frame by frame")
        elif wrong.startswith(UNTRIED):
            yield ok(name, wrong)
        else:
            yield fault(name, wrong, cure)


def _wrong(entry: registry.Entry) -> str | None:
    """What is wrong with a reader; empty if it reads well, None if it cannot be imported, which is
    said among the plugins.
    """
    from actionkit.testing import readers
    from actionkit.testing.subject import Subject

    try:
        required = [p.name for p in schema.parameters(entry).values() if p.required]
        if required:
            return f"{UNTRIED}: it needs the option {' and '.join(required)}"
        registry.load(entry)()
    except registry.BrokenComponentError:
        return None
    except ValueError as error:  # an extra that is not installed
        return f"{UNTRIED}: it {error}"
    except (Exception, SystemExit) as error:
        return f"cannot be made: {cause(error)}"
    try:
        readers.exact(Subject(entry))
    except AssertionError as error:
        return str(error)
    except (Exception, SystemExit) as error:
        return f"fails on a small video: {cause(error)}"
    return ""
