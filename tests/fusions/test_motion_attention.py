import itertools
import pickle

import pytest
import torch
from torch.nn import functional as F

from actionkit import builder, recipe
from actionkit.aggregators.attention_lstm import ConvALSTM
from actionkit.aggregators.convlstm import ConvLSTM
from actionkit.contracts import Dataset, Features, Shape
from actionkit.fusions.motion_attention import MotionAttention

MASKS = {  # of the stream that is read, and of the one that drives
    "prefix": (["11111", "11100", "00000"], ["11110", "11111", "11111"]),
    "any": (["01011", "10101", "11111"], ["11101", "11111", "01011"]),
    "all": (["11111"] * 3, ["11111"] * 3),
    "none": (["10101"] * 3, ["01010"] * 3),
}
WIRINGS = ["coupled", "decoupled"]
VARIANTS = [
    {"wiring": wiring, **options}
    for wiring in WIRINGS
    for options in (
        {},
        {"initial": "zero", "motion_hidden": 4, "width": 7},
        {"weights": "scaled", "kernel": 1},
        {"weights": "sigmoid", "motion_hidden": 3, "kernel": 5},
    )
]
INP = {"rgb": Shape(5, 2, 4, 3), "flow": Shape(5, 3, 4, 3)}


def build(inp=INP, dtype=torch.float64, **options):
    torch.manual_seed(0)
    part = MotionAttention(inp, **{"hidden": 6, **options})
    with torch.no_grad():
        for p in part.parameters():
            p.normal_(std=0.5)
    return part.to(dtype)


def streams(mask_name, padding=0.0, dtype=torch.float64, size=(4, 3)):
    generator = torch.Generator().manual_seed(1)
    found = {}
    for (name, shape), rows in zip(INP.items(), MASKS[mask_name], strict=True):
        mask = torch.tensor([[step == "1" for step in row] for row in rows])
        x = torch.randn(*mask.shape, shape.channels, *size, generator=generator).to(dtype)
        found[name] = Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)
    return found


def with_gradients(inputs):
    for features in inputs.values():
        features.x.requires_grad_()
    return inputs


def cut(inputs, *at):
    return {n: Features(f.x[at], f.mask[at]) for n, f in inputs.items()}


def conv(x, layer):
    return F.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2)


def lstm(gates, c):
    i, f, g, o = gates.chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def start(layer, steps, hidden):
    if layer is None:
        return torch.zeros(2, 1, hidden, 4, 3, dtype=torch.float64).unbind()
    return conv(steps.mean(0, keepdim=True), layer).tanh().split(hidden, 1)


def weigh(scores, by):
    """Weights [4, 3] of scores [4, 3], and how much of a place is read."""
    if by == "sigmoid":
        weights = 1 / (1 + (-scores).exp())
        return weights, weights
    weights = scores.exp() / scores.exp().sum()
    return weights, 12 * weights if by == "scaled" else weights


def one_clip(part, xs, ms):
    """States [N, hidden, 4, 3] and weights [N, 4, 3] of one clip's real steps, by the equations."""
    coupled, states, maps = len(part.attention.queries) == 1, [], []
    h, c = start(part.start, xs, 6)
    n, d = start(part.motion_start, ms, part.motion.state.in_channels)
    for x, m in zip(xs.split(1), ms.split(1), strict=True):
        gates = conv(m, part.motion.input) + conv(n, part.motion.state)
        if coupled:
            gates = gates + conv(h, part.feedback)
        n, d = lstm(gates, d)
        inner = conv(x, part.attention.content) + conv(n, part.attention.queries[0])
        if not coupled:
            inner = inner + conv(h, part.attention.queries[1])
        weights, share = weigh(conv(inner.tanh(), part.attention.score)[0, 0], part.weights)
        h, c = lstm(conv(share * x, part.lstm.input) + conv(h, part.lstm.state), c)
        states.append(h)
        maps.append(weights)
    return torch.cat(states), torch.stack(maps)


def naive(part, inputs):
    """Each clip's real steps alone."""
    mask = inputs["rgb"].mask & inputs["flow"].mask
    y = torch.zeros(3, 5, 6, 4, 3, dtype=torch.float64)
    attention = torch.zeros(3, 5, 1, 4, 3, dtype=torch.float64)
    for b, real in enumerate(mask):
        if real.any():
            states, maps = one_clip(part, *(inputs[n].x[b][real] for n in ("rgb", "flow")))
            y[b, real], attention[b, real] = states, maps[:, None]
    return y, attention


def gradients(part, inputs, *results):
    """Of a sum with fixed weights, for the inputs and every parameter."""
    y = torch.cat([result.flatten() for result in results])
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype)
    tensors = [*(f.x for f in inputs.values()), *part.parameters()]
    loss = (weights * y).sum() + sum(0 * p.sum() for p in part.parameters())
    return torch.autograd.grad(loss, tensors, materialize_grads=True)


def close(got, wanted, atol=1e-10):
    torch.testing.assert_close(got, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("options", VARIANTS)
def test_equals_a_loop_with_its_gradients(options, mask):
    part, inputs = build(**options), with_gradients(streams(mask))
    y, (states, maps) = part(inputs), naive(part, inputs)
    assert part.out == Shape(5, 6, 4, 3)
    assert y.x.shape == (3, *part.out)
    assert torch.equal(y.mask, inputs["rgb"].mask & inputs["flow"].mask)
    close(y.x, states)
    close(y.attention, maps)
    got = gradients(part, inputs, y.x, y.attention)
    for one, other in zip(got, gradients(part, inputs, states, maps), strict=True):
        close(one, other)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("options", VARIANTS)
def test_attention_sums_to_1_at_real_steps_and_is_0_at_padded_ones(options, mask):
    y = build(**options)(streams(mask))
    assert y.attention.shape == (3, 5, 1, 4, 3)
    assert (y.x[~y.mask] == 0).all()
    assert (y.attention[~y.mask] == 0).all()
    if options.get("weights") == "sigmoid":
        assert ((y.attention[y.mask] > 0) & (y.attention[y.mask] < 1)).all()
    else:
        close(y.attention.sum((2, 3, 4)), y.mask.double(), 1e-12)


@pytest.mark.parametrize("padding", [7.0, float("nan"), float("inf")])
@pytest.mark.parametrize("options", VARIANTS)
def test_padding_reaches_neither_values_nor_gradients(options, padding):
    for mask in ("prefix", "any", "none"):
        results = []
        for content in (0.0, padding):
            part, inputs = build(**options), with_gradients(streams(mask, content))
            y = part(inputs)
            results.append((y.x, y.attention, *gradients(part, inputs, y.x, y.attention)))
        for plain, padded in zip(*results, strict=True):
            assert plain.isfinite().all()
            assert torch.equal(plain, padded)


def test_a_step_that_only_one_stream_has_is_as_if_neither_had_it():
    part, inputs = build(), streams("any")
    both = inputs["rgb"].mask & inputs["flow"].mask
    whole = part(inputs)
    for b, real in enumerate(both):
        alone = part(cut(inputs, slice(b, b + 1), real))
        close(whole.x[b, real], alone.x[0])
        close(whole.attention[b, real], alone.attention[0])


@pytest.mark.parametrize("wiring", WIRINGS)
def test_the_driver_is_the_stream_that_is_named_wherever_it_stands(wiring):
    part, inputs = build(wiring=wiring), streams("all")
    names = {"rgb": "what", "flow": "how"}
    for order in (["rgb", "flow"], ["flow", "rgb"]):
        shapes = {names[n]: INP[n] for n in order}
        named = build(shapes, wiring=wiring, driver="how")
        y = named({names[n]: inputs[n] for n in order})
        assert (named.driver, named.reader) == ("how", "what")
        assert torch.equal(y.x, part(inputs).x)
        assert torch.equal(y.attention, part(inputs).attention)


def even(part):
    with torch.no_grad():
        part.attention.score.weight.zero_()
    return part


@pytest.mark.parametrize("wiring", WIRINGS)
def test_even_attention_makes_a_scaled_one_a_convlstm_without_motion(wiring):
    part = even(build(wiring=wiring, weights="scaled", initial="zero"))
    inputs = streams("any")
    plain = ConvLSTM(INP["rgb"], hidden=6).double()
    plain.layers[0].load_state_dict(part.lstm.state_dict())
    y = part(inputs)
    read = inputs["rgb"]._replace(mask=y.mask)
    close(y.x, plain(read).x)
    twelfth = even(build(wiring=wiring, initial="zero"))(inputs).x
    close(twelfth, plain(read._replace(x=read.x / 12)).x)


@pytest.mark.parametrize("initial", ["zero", "mean"])
def test_decoupled_without_motion_is_conv_alstm(initial):
    part, inputs = build(wiring="decoupled", initial=initial), streams("any")
    with torch.no_grad():
        part.attention.queries[0].weight.zero_()
    plain = ConvALSTM(INP["rgb"], hidden=6, initial=initial).double()
    state = {k: v for k, v in part.state_dict().items() if not k.startswith("motion")}
    state["attention.queries.0.weight"] = state.pop("attention.queries.1.weight")
    plain.load_state_dict(state)
    y = part(inputs)
    wanted = plain(inputs["rgb"]._replace(mask=y.mask))
    close(y.x, wanted.x)
    close(y.attention, wanted.attention)


def test_without_their_own_terms_both_wirings_are_one():
    coupled, decoupled = build(initial="zero"), build(wiring="decoupled", initial="zero")
    with torch.no_grad():
        decoupled.attention.queries[1].weight.zero_()
        state = {**decoupled.state_dict(), "feedback.weight": 0 * coupled.feedback.weight}
        del state["attention.queries.1.weight"]
        coupled.load_state_dict(state)
    one, other = coupled(streams("any")), decoupled(streams("any"))
    close(one.x, other.x)
    close(one.attention, other.attention)


@pytest.mark.parametrize("stream", INP)
@pytest.mark.parametrize("wiring", WIRINGS)
def test_attention_knows_what_was_and_with_mean_what_comes(wiring, stream):
    inputs = streams("all")
    changed = {}
    for t in (0, 4):
        x = inputs[stream].x.clone()
        x[:, t] += 1
        changed[t] = {**inputs, stream: inputs[stream]._replace(x=x)}
    for initial in ("zero", "mean"):
        part = build(wiring=wiring, initial=initial)
        plain, earlier, later = (
            part(given).attention[:, 2] for given in (inputs, changed[0], changed[4])
        )
        assert not torch.equal(earlier, plain)
        assert torch.equal(later, plain) == (initial == "zero")


def test_only_coupled_motion_knows_what_the_convlstm_has_seen():
    """With nothing but the motion unit's state in the scores."""
    inputs = streams("all")
    x = inputs["rgb"].x.clone()
    x[:, 0] += 1
    changed = {**inputs, "rgb": inputs["rgb"]._replace(x=x)}
    for wiring in WIRINGS:
        part = build(wiring=wiring, initial="zero")
        with torch.no_grad():
            part.attention.content.weight.zero_()
            for query in part.attention.queries[1:]:
                query.weight.zero_()
        plain, other = part(inputs).attention, part(changed).attention
        assert torch.equal(other[:, 0], plain[:, 0])
        assert torch.equal(other[:, 1], plain[:, 1]) == (wiring == "decoupled")


def test_starts_from_merge():
    inputs = streams("any")
    boxes = torch.rand(3, 5, 1, 4)
    inputs["rgb"] = inputs["rgb"]._replace(penalty=torch.tensor(1.0), boxes=boxes)
    inputs["flow"] = inputs["flow"]._replace(
        penalty=torch.tensor(2.0),
        extra={"z": torch.tensor(3.0)},
        attention=torch.rand(3, 5, 1, 2, 2),
    )
    y = build()(inputs)
    assert y.penalty.item() == 3
    assert y.boxes is boxes
    assert list(y.extra) == ["flow/z"]
    assert y.attention.shape == (3, 5, 1, 4, 3)  # its own


# ---------------------------------------------------------------------------------------- sizes

TOP, INIT = 18_876_416, 4_719_616
HEAD = 25_691_136 + 103_525  # a layer of 1024 over 7x7 of 512, and 101 classes
TOTALS = {"coupled": 53_589_094, "decoupled": 52_802_662}


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("wiring", WIRINGS)
def test_videolstm_has_its_sizes(wiring):
    with torch.device("meta"):
        part = MotionAttention(dict.fromkeys(INP, Shape(30, 512, 7, 7)), hidden=512, wiring=wiring)
    found = {name: count(child) for name, child in part.named_children()}
    motion = found["motion"] + found.get("feedback", 0)
    assert found["lstm"] == TOP
    assert found["start"] == INIT
    assert found["motion_start"] == 525_312
    if wiring == "coupled":
        assert motion == 3_147_776
        assert found["attention"] == 525_313
    else:  # without V, and with the state in the scores
        assert motion == 3_147_776 - 4 * 512 * 512
        assert found["attention"] == 525_313 + 512 * 512
    assert count(part) + HEAD == TOTALS[wiring]
    assert TOTALS["coupled"] == 49_916_006 + 3_147_776 + 525_312  # ConvALSTM and the motion unit


class Actions(Dataset):
    """As many classes as UCF101 has."""

    classes = [f"action{i}" for i in range(101)]  # noqa: RUF012  is read only

    def __len__(self):
        return 0

    def __getitem__(self, index):
        raise IndexError(index)


@pytest.mark.parametrize("wiring", WIRINGS)
def test_the_recipe_for_ucf101_is_as_large_as_published_behind_its_backbones(wiring):
    path = recipe.recipe_folders()["actionkit"] / "ucf101" / "videolstm.yaml"
    data = dict.fromkeys(("train", "val", "test"), Actions())
    found = builder.blueprint(path, [f"model.fusion.wiring={wiring}"], datasets=data)
    assert found.problems == []
    rows = {row.key: row for row in found.components.rows}
    for stream in INP:
        assert rows[f"model.streams.{stream}.backbone"].out == Shape(30, 512, 7, 7)
    assert rows["model.fusion"].out == Shape(30, 512, 7, 7)
    assert rows["model.head"].out == Shape(30, 101, 1, 1)
    behind = [row.parameters for key, row in rows.items() if not key.startswith("model.streams")]
    assert sum(behind) == TOTALS[wiring]
    assert all(p.is_meta for p in found.built.network.parameters())


def test_parameters_are_as_written():
    c, d, h, m, a, k = 2, 3, 6, 4, 7, 5
    for wiring, initial in itertools.product(WIRINGS, ("zero", "mean")):
        part = build(kernel=k, motion_hidden=m, width=a, wiring=wiring, initial=initial)
        wanted = 4 * k**2 * (c + h) * h + 4 * h
        wanted += 4 * (d + m + h) * m + 4 * m
        wanted += a * (c + m + 2) + 1
        if wiring == "decoupled":
            wanted += a * h - 4 * h * m
        if initial == "mean":
            wanted += 2 * h * (k**2 * c + 1) + 2 * m * (d + 1)
        assert count(part) == wanted


def test_lstms_start_as_those_of_convlstm():
    torch.manual_seed(0)
    part = MotionAttention(INP, hidden=6, motion_hidden=4)
    for cell, hidden in ((part.lstm, 6), (part.motion, 4)):
        bias = torch.cat([torch.full([hidden], float(i == 1)) for i in range(4)])
        assert torch.equal(cell.input.bias, bias)
        for gate in cell.state.weight.flatten(1).chunk(4):
            close(gate @ gate.T, torch.eye(hidden), 1e-5)


# ------------------------------------------------------------------------------------- odd uses


def test_maps_and_clips_may_have_any_size():
    free = {n: Shape(None, s.channels, None, None) for n, s in INP.items()}
    part = build(free)
    assert part.out == Shape(None, 6, None, None)
    for size in ((2, 7), (9, 4)):
        y = part(streams("any", size=size))
        assert y.x.shape == (3, 5, 6, *size)
        assert y.attention.shape == (3, 5, 1, *size)
    one_known = {**free, "flow": free["flow"]._replace(steps=5)}
    assert build(one_known).out.steps == 5


@pytest.mark.parametrize("options", VARIANTS)
def test_one_step_bf16_and_pickle(options):
    part, inputs = build(**options), streams("any")
    one = cut(inputs, slice(2, 3), slice(1, 2))
    y = part(one)
    states, maps = one_clip(part, *(one[n].x[0] for n in ("rgb", "flow")))
    close(y.x[0], states)
    close(y.attention[0, :, 0], maps)
    part, inputs = part.float(), streams("any", dtype=torch.float32)
    y = part(inputs)
    assert torch.equal(pickle.loads(pickle.dumps(part))(inputs).x, y.x)
    with torch.autocast("cpu", torch.bfloat16):
        z = part(inputs)
    z.x.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
    half = part.bfloat16()(streams("any", dtype=torch.bfloat16))
    assert half.x.dtype == torch.bfloat16
    for got in (z, half):
        close(got.x.float(), y.x, 0.1)
        assert got.attention.dtype == torch.float32
        close(got.attention, y.attention, 0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wiring", WIRINGS)
def test_an_exported_one_holds_the_states_too(wiring):
    part = build(wiring=wiring).eval()
    exported = torch.export.export(part, (streams("all"),)).module()
    for mask in MASKS:
        inputs = streams(mask, padding=7.0)
        got, wanted = exported(inputs), part(inputs)
        close(got.x, wanted.x)
        close(got.attention, wanted.attention)


# -------------------------------------------------------------------------------------- refusals


def but(**changes):
    return {n: shape._replace(**changes.get(n, {})) for n, shape in INP.items()}


@pytest.mark.parametrize(
    ("inp", "options", "sentence"),
    [
        (INP, {"driver": "flwo"}, r"driven by 'flwo', but no such stream; did you mean flow\?$"),
        (INP, {"driver": "x"}, r"driven by 'x', .* did you mean rgb or flow\?$"),
        ({"flow": INP["flow"]}, {}, "takes two streams, .* but gets 1: flow; give it 'flow' and"),
        ({**INP, "pose": INP["rgb"]}, {}, "two streams, .* but gets 3: rgb, flow, pose; give"),
        (but(flow={"height": 7}), {}, "maps of one size, but 'rgb' 4x3, 'flow' 7x3; crop the"),
        (but(flow={"width": None}), {}, r"one size, but 'rgb' 4x3, 'flow' 4x\?"),
        (but(flow={"steps": 1}), {}, "'rgb' has 5, 'flow' has 1; .*keep: starts"),
        (but(flow={"channels": None}), {}, "fixed number of channels"),
        (but(rgb={"channels": None}), {}, "fixed number of channels"),
        (
            dict.fromkeys(INP, Shape(5, 2, 1, 1)),
            {},
            "gets maps of 1x1; take away the spatial_pool before it",
        ),
        (INP, {"hidden": 0}, "1 or more hidden channels, but got 0"),
        (INP, {"motion_hidden": 0}, "1 or more hidden channels, but got 0"),
        (INP, {"width": 0}, "1 or more channels for its attention, but got 0"),
        (INP, {"kernel": 2}, "odd kernels.* but got 2; set it to 3"),
    ],
)
def test_refuses(inp, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(inp, **options)
