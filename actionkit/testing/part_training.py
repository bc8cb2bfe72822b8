"""Checks of parts: gradients, randomness, saving, half precision, compilers."""

from __future__ import annotations

import io
import warnings

import torch
from torch import Tensor

from actionkit.testing import toy
from actionkit.testing.bench import Bench, Streams, require_same_real_steps
from actionkit.testing.subject import Subject, global_rng_untouched, require_pickles
from actionkit.testing.verdict import (
    NotSupportedError,
    require,
    require_equal,
    require_finite,
)


def gradients(subject: Subject) -> None:
    """Real steps give finite gradients to input and parameters, whatever padding holds."""
    bench = Bench.of(subject)
    for value in (0.0, torch.nan):
        inputs = {n: toy.fill_padding(f, value) for n, f in bench.inputs().items()}
        for features in inputs.values():
            features.x.requires_grad_()
        part = bench.part(train=True)
        torch.manual_seed(0)
        results = bench.run(part, inputs)
        loss = torch.stack([_real(results).square().sum(), *_penalties(results)]).sum()
        require(loss.requires_grad, "its result does not depend on its input by gradients")
        loss.backward()
        padding = f"{value} at padded steps"
        for name, features in inputs.items():
            _require_gradient(features.x, f"the input {name!r}, with {padding}")
        for name, parameter in part.named_parameters():
            if parameter.requires_grad:
                _require_gradient(parameter, f"{name}, with {padding}")


def deterministic(subject: Subject) -> None:
    """One seed gives one result, and evaluation draws from no global generator."""
    bench = Bench.of(subject)
    first, second = bench.build(bench.shapes, seed=3), bench.build(bench.shapes, seed=3)
    for name, value in first.state_dict().items():
        require_equal(second.state_dict()[name], value, f"{name} of two builds of one seed", 0)
    runs = []
    for part in (first, second):
        torch.manual_seed(4)
        runs.append(bench.run(part.train(), bench.inputs()))
    require(torch.equal(_real(runs[0]), _real(runs[1])), "in training, one seed gives two results")
    with global_rng_untouched("the forward in evaluation"):
        bench.run(first.eval(), bench.inputs())


def state_dict(subject: Subject) -> None:
    """What `state_dict` saves is all that a fresh part needs, and loads with weights_only."""
    bench = Bench.of(subject)
    trained = bench.build(bench.shapes, seed=1)
    bench.run(trained.train(), bench.inputs())
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    fresh = bench.build(bench.shapes, seed=2)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    wanted = bench.run(trained.eval(), bench.inputs())
    got = bench.run(fresh.eval(), bench.inputs())
    require_same_real_steps(got, wanted, "behind a round trip of its state_dict")


def pickle_(subject: Subject) -> None:
    """It survives pickling."""
    bench = Bench.of(subject)
    part = bench.part()
    got, wanted = bench.run(require_pickles(part), bench.inputs()), bench.run(part, bench.inputs())
    require_same_real_steps(got, wanted, "behind pickling")


def bf16(subject: Subject) -> None:
    """Under autocast to bfloat16 results are finite and close to those of float32."""
    bench = Bench.of(subject)
    part = bench.part()
    with torch.no_grad():
        wanted = _real(bench.run(part, bench.inputs()))
        with torch.autocast("cpu", torch.bfloat16):
            got = _real(bench.run(part, bench.inputs()))
    require_finite(got, "in bfloat16")
    error = ((got - wanted).norm() / wanted.norm().clamp(min=1e-6)).item()
    require(error < 0.1, f"bfloat16 is off by {error:.1%} of what float32 gives")


def compile_(subject: Subject) -> None:
    """Reported: torch.compile takes it, and it gives the same then."""
    bench = Bench.of(subject)
    part, inputs = bench.part(), bench.inputs()
    wanted = bench.run(part, inputs)
    torch._dynamo.reset()
    try:
        got = bench.run(torch.compile(part, backend="eager"), inputs)  # type: ignore[arg-type]
    except Exception as error:
        raise NotSupportedError(f"torch.compile refuses it: {_first_line(error)}") from error
    require_same_real_steps(got, wanted, "compiled")


def export(subject: Subject) -> None:
    """Reported: torch.export takes it, and it gives the same then."""
    bench = Bench.of(subject)
    part, inputs = bench.part(), bench.full(batch=2)
    given = inputs if bench.many else next(iter(inputs.values()))
    wanted = bench.run(part, inputs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(part, (given,)).module()
            got = bench.run(exported, inputs)
    except Exception as error:
        raise NotSupportedError(f"torch.export refuses it: {_first_line(error)}") from error
    require_same_real_steps(got, wanted, "exported")


def _real(results: Streams) -> Tensor:
    """The values at all real steps in one row, float32."""
    return torch.cat([features.x[features.mask].float().flatten() for features in results.values()])


def _penalties(results: Streams) -> list[Tensor]:
    return [features.penalty for features in results.values() if features.penalty is not None]


def _require_gradient(tensor: Tensor, what: str) -> None:
    require(tensor.grad is not None, f"no gradient reaches {what}")
    if tensor.grad is not None:
        require_finite(tensor.grad, f"the gradient of {what}")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


CHECKS = (gradients, deterministic, state_dict, pickle_, bf16, compile_, export)
