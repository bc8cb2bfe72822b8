"""The contracts between the parts: all that the author of a component reads.

A network is made of parts; between two parts flows one type, `Features`. Before any tensor exists,
the same places are described by `Shape`. Data go one way: Record -> Reader <- Sampler -> Transforms
= Sample -> Batch -> Transforms on the device -> network -> scores -> Loss.

A component's options are the keyword-only, annotated parameters of its constructor; what comes
before the star (`inp`, `classes`, `split`) is supplied by the builder. A constructor that cannot
work with what it is given raises ValueError with the rest of a sentence that starts with its name:
"takes one vector per step, but gets maps of 7x7; put spatial_pool before it".
"""

from __future__ import annotations

from actionkit.contracts.data import (
    Bad,
    Batch,
    Classes,
    Clip,
    Dataset,
    Info,
    Kind,
    Reader,
    Record,
    Sample,
    Sampler,
    Target,
    Transform,
    VideoReadError,
)
from actionkit.contracts.network import (
    Aggregator,
    Backbone,
    Features,
    Fits,
    Fitting,
    Fusion,
    Head,
    Joint,
    Loss,
    Make,
    Metric,
    Output,
    Part,
    Shape,
    pack,
    unpack,
)

__all__ = [
    "Aggregator",
    "Backbone",
    "Bad",
    "Batch",
    "Classes",
    "Clip",
    "Dataset",
    "Features",
    "Fits",
    "Fitting",
    "Fusion",
    "Head",
    "Info",
    "Joint",
    "Kind",
    "Loss",
    "Make",
    "Metric",
    "Output",
    "Part",
    "Reader",
    "Record",
    "Sample",
    "Sampler",
    "Shape",
    "Target",
    "Transform",
    "VideoReadError",
    "pack",
    "unpack",
]
