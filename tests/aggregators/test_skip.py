import itertools
import math
import pickle

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from makers import CLASSES, batch, loader, system, trainer

from actionkit.aggregators.pooling import SpatialPool
from actionkit.aggregators.skip import SkipGRU, SkipLSTM, straight_through
from actionkit.contracts import Features, Shape
from actionkit.heads.linear import Linear
from actionkit.network import SCORES, Chain, Network
from actionkit.tasks.recognition import Recognition

KINDS = [SkipLSTM, SkipGRU]
LAYERS = [1, 2, 3]
T = 9
MASKS = {
    "prefix": [[1] * T, [1, 1, 1, 1, 0, 0, 0, 0, 0], [0] * T],
    "any": [[0, 0, 1, 1, 0, 1, 1, 1, 0], [1, 0, 0, 1, 1, 1, 0, 1, 1], [1] * T],
    "all": [[1] * T] * 3,
    "none": [[0] * T] * 3,
}
INP = Shape(T, 4, 1, 1)


def build(kind=SkipLSTM, layers=1, inp=INP, dtype=torch.float64, **options):
    torch.manual_seed(1)
    part = kind(inp, hidden=6, layers=layers, **options)
    with torch.no_grad():  # biases and states at start are 0 or 1, too kind for a test
        for p in part.parameters():
            p.normal_(std=0.5)
        part.gate.bias.fill_(-1.0)  # so that it skips
    return part.to(dtype)


def steady(kind, probability, **options):
    """With one probability after all updates."""
    part = build(kind, **options)
    with torch.no_grad():
        part.gate.weight.zero_()
        part.gate.bias.fill_(math.log(probability / (1 - probability)))
    return part


def sequence(mask, padding=0.0, dtype=torch.float64):
    mask = torch.tensor(mask, dtype=torch.bool)
    x = torch.randn(*mask.shape, 4, 1, 1, generator=torch.Generator().manual_seed(1)).to(dtype)
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


def read(part, features):
    """The states [B, T, 6], and which steps updated [B, T]."""
    y = part.read(features, None)[0].flatten(2)
    return y[..., :6], y[..., 6]


# ------------------------------------------------------------------------- the paper's equations


class Round(torch.autograd.Function):
    """0 or 1, with the gradient of the identity."""

    @staticmethod
    def forward(ctx, p):
        return torch.ones_like(p) if p >= 0.5 else torch.zeros_like(p)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def layer_step(layer, x, state):
    """One layer's S(s, x)."""
    of_x, of_h = layer.input(x), layer.state.weight @ state[0]
    if len(state) == 1:
        (h,) = state
        x_r, x_z, x_n = of_x.chunk(3)
        h_r, h_z, h_n = (of_h + layer.state.bias).chunk(3)
        z = (x_z + h_z).sigmoid()
        return [(1 - z) * (x_n + (x_r + h_r).sigmoid() * h_n).tanh() + z * h]
    i, f, g, o = (of_x + of_h).chunk(4)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return [o.sigmoid() * c.tanh(), c]


def transition(part, x, state):
    """S of all layers; the state of each is h, or h and c."""
    new = []
    for layer, own in zip(part.layers, state, strict=True):
        new.append(layer_step(layer, x, own))
        x = new[-1][0]
    return new


def first(part):
    size = 1 if isinstance(part, SkipGRU) else 2
    rows = part.start.split(6)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def blend(u, new, old):
    return [
        [u * a + (1 - u) * b for a, b in zip(*pair, strict=True)]
        for pair in zip(new, old, strict=True)
    ]


def as_in_the_code(part, steps):
    """The states and decisions of one clip: with the candidate's probability, and a sum of it."""
    state, found, total, states, updates = first(part), torch.ones(1), torch.zeros(1), [], []
    for x in steps:
        total = total + torch.minimum(found, 1 - total)
        u = Round.apply(total)
        new = transition(part, x, state)
        found = u * part.gate(new[-1][-1]).sigmoid() + (1 - u) * found
        total, state = (1 - u) * total, blend(u, new, state)
        states.append(state[-1][0])
        updates.append(u)
    return states, updates


def as_in_the_paper(part, steps):
    """The states and decisions of one clip: u, s, and what u comes from next."""
    state, towards, states, updates = first(part), torch.ones(1), [], []
    for x in steps:
        u = Round.apply(towards)
        state = blend(u, transition(part, x, state), state)
        found = part.gate(state[-1][-1]).sigmoid()
        towards = u * found + (1 - u) * (towards + torch.minimum(found, 1 - towards))
        states.append(state[-1][0])
        updates.append(u)
    return states, updates


def naive(one_clip, part, features):
    """Each clip's real steps alone: states [B, T, 6] and decisions [B, T]."""
    y, u = torch.zeros(*features.mask.shape, 6), torch.zeros(features.mask.shape)
    for b, real in enumerate(features.mask):
        states, updates = one_clip(part, list(features.x[b][real].flatten(1)))
        if states:
            y[b, real], u[b, real] = torch.stack(states), torch.cat(updates)
    return y, u


def gradients(part, features, y, penalty):
    """Of a sum with fixed weights and of the penalty, for the input and every parameter."""
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    tensors = [features.x, *part.parameters()]
    total = (weights * y).sum() + penalty + 0 * features.x.sum()
    return torch.autograd.grad(total, tensors, materialize_grads=True)


@pytest.fixture
def in_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("in_float64")
def test_equals_a_loop_with_its_gradients(kind, layers, mask):
    part, features = build(kind, layers, budget=0.7), sequence(MASKS[mask])
    features.x.requires_grad_()
    y, (wanted, u) = part(features), naive(as_in_the_code, part, features)
    assert y.x.shape == (3, *part.out)
    assert y.mask is features.mask
    torch.testing.assert_close(y.x.flatten(2), wanted, rtol=0, atol=1e-10)
    assert (y.x[~y.mask] == 0).all()
    assert torch.equal(read(part, features)[1], u)
    if mask != "none":
        assert 0.2 < u[features.mask].mean() < 0.8  # else nothing is shown
    penalty = 0.7 * u.sum(1).mean()
    torch.testing.assert_close(y.penalty, penalty, rtol=0, atol=1e-10)
    for got, naive_one in zip(
        gradients(part, features, y.x.flatten(2), y.penalty),
        gradients(part, features, wanted, penalty),
        strict=True,
    ):
        torch.testing.assert_close(got, naive_one, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("in_float64")
def test_the_paper_s_equations_say_the_same(kind, layers, mask):
    part, features = build(kind, layers), sequence(MASKS[mask])
    wanted, u = naive(as_in_the_paper, part, features)
    y, updates = read(part, features)
    torch.testing.assert_close(y, wanted, rtol=0, atol=1e-10)
    assert torch.equal(updates, u)


# ------------------------------------------------------------------------------------ decisions


@pytest.mark.parametrize("probability", [0.9, 0.5, 0.49, 0.3, 0.2, 0.13, 0.06])
@pytest.mark.parametrize("kind", KINDS)
def test_after_an_update_it_skips_until_half_has_added_up(kind, probability):
    part, features = steady(kind, probability), sequence([[1] * 30])
    (updates,) = read(part, features)[1].tolist()
    skipped = min(n for n in range(1, 30) if n * probability >= 0.5) - 1
    assert updates == [float(t % (skipped + 1) == 0) for t in range(30)]


def test_padding_is_not_waited_for():
    part = steady(SkipGRU, 0.2)  # skips 2
    features = sequence([[0, 1, 1, 0, 1, 0, 1, 1]])
    assert read(part, features)[1].tolist() == [[0, 1, 0, 0, 0, 0, 1, 0]]


def test_a_skipped_step_has_the_state_before():
    features = sequence(MASKS["all"])
    y, updates = read(build(layers=2), features)
    skipped = updates[:, 1:] == 0
    assert skipped.any()
    assert torch.equal(y[:, 1:][skipped], y[:, :-1][skipped])
    assert (y[:, 1:] != y[:, :-1])[~skipped].all()


def test_half_is_an_update():
    part = build()
    share = torch.zeros(3, 24).double()
    h = torch.zeros(3, 6).double()
    quarter = torch.full((3,), 0.25).double()
    sums = torch.tensor([0.25, 0.25 - 2**-53, 0.0], dtype=torch.float64)
    update, state = part.step(share, (h, h, quarter, sums))
    assert update.tolist() == [1, 0, 0]
    assert state[-1].tolist() == [0, 0.25 + sums[1], 0.25]
    assert (state[-2] == quarter).tolist() == [False, True, True]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_straight_through_is_exactly_0_or_1_with_the_gradient_of_the_identity(dtype):
    p = torch.linspace(0, 1, 101, dtype=dtype, requires_grad=True)
    u = straight_through(p)
    assert torch.equal(u, (p.detach() >= 0.5).to(dtype))
    u.sum().backward()
    assert (p.grad == 1).all()


# --------------------------------------------------------------------------------------- budget


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_s_gradient_by_hand(kind):
    """u_2 = p and u_3 = (1 - u_2) p + p' of the gate, which has the derivative p (1 - p)."""
    part, p = steady(kind, 0.3, budget=0.5), 0.3
    penalty = part(sequence([[1, 1, 1], [1, 0, 0]])).penalty
    assert penalty.item() == pytest.approx(0.5 * (2 + 1) / 2)  # steps 1 and 3, and step 1
    penalty.backward()
    u_2 = p * (1 - p)
    u_3 = (u_2 - p * u_2) + u_2
    assert part.gate.bias.grad.item() == pytest.approx(0.5 * (u_2 + u_3) / 2)


@pytest.mark.parametrize("target", [0.0, 0.25, 0.5, 1.0])
def test_a_target_is_a_number_of_steps_for_each_clip(target):
    part = steady(SkipGRU, 0.3, budget=2.0, target=target)  # every second step
    features = sequence([[1] * 8, [1, 1, 0, 0, 1, 1, 0, 0], [0] * 8])
    wanted = 2 * (abs(4 - 8 * target) + abs(2 - 4 * target) + 0) / 3
    assert part(features).penalty.item() == pytest.approx(wanted)


def test_a_penalty_is_added_and_without_a_budget_handed_on():
    features = sequence(MASKS["any"])._replace(penalty=torch.tensor(3.0).double())
    own = build(budget=0.1)(features._replace(penalty=None)).penalty
    assert build(budget=0.1)(features).penalty == 3 + own
    assert build()(features).penalty is features.penalty
    assert build()(features._replace(penalty=None)).penalty is None


@pytest.mark.parametrize("mask", MASKS)
def test_extra_has_the_share_of_updates_among_real_steps(mask):
    note = torch.ones(3)
    features = sequence(MASKS[mask])._replace(extra={"note": note})
    part = build()
    y = part(features)
    share = y.extra["updates"]
    assert y.extra["note"] is note
    assert "updates" not in features.extra
    assert (share.ndim, share.requires_grad) == (0, False)
    updates = read(part, features)[1][features.mask]
    assert share.item() == pytest.approx(updates.mean().item() if len(updates) else 0)


class Logged(Callback):
    def on_train_batch_end(self, trainer, *_):
        self.found = {k: v.item() for k, v in trainer.logged_metrics.items()}


def network(heads):
    """Of the two steps of a clip it reads the first."""
    pool = SpatialPool(Shape(2, 3, 8, 8))
    part = steady(SkipLSTM, 0.3, inp=pool.out, dtype=torch.float32, budget=0.1, to="one")
    chain = Chain(aggregate=[pool, part], head={h: Linear(part.out, CLASSES) for h in heads})
    return Network({"rgb": chain}, {"rgb": "rgb"})


@pytest.mark.parametrize("heads", [[SCORES], ["verb", "noun"]])
def test_a_network_hands_the_share_on(heads):
    clip = batch(views=3).clips["rgb"]
    output = network(heads)({"rgb": clip._replace(x=clip.x.float())})
    for features in output.values():
        assert features.x.shape[:2] == (4, 3)
        assert features.extra["updates"] == 0.5
        assert features.penalty.item() == pytest.approx(0.1)


def test_the_share_is_logged(tmp_path):
    logged = Logged()
    run = trainer(tmp_path, max_epochs=1, callbacks=[logged])
    run.fit(Recognition(system(network([SCORES]))), loader([batch()]), loader([batch()]))
    assert logged.found["train/updates"] == 0.5
    assert run.callback_metrics["val/updates"] == 0.5


# -------------------------------------------------------------------------------- padding, sizes


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_to_one_is_the_state_after_the_last_real_step(kind, mask):
    part, features = build(kind, layers=2, to="one"), sequence(MASKS[mask])
    y, every = part(features), read(part, features)[0]
    assert part.out == Shape(1, 6, 1, 1)
    for b, real in enumerate(features.mask):
        assert y.mask[b].tolist() == [bool(real.any())]
        wanted = every[b][real][-1] if real.any() else torch.zeros(6).double()
        assert torch.equal(y.x[b].flatten(), wanted)


@pytest.mark.parametrize("padding", [7.0, float("nan"), float("inf")])
@pytest.mark.parametrize("mask", ["prefix", "any", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_reaches_neither_values_nor_gradients(kind, mask, padding):
    results = []
    for content in (0.0, padding):
        part, features = build(kind, 2, budget=0.1), sequence(MASKS[mask], content)
        features.x.requires_grad_()
        y = part(features)
        (y.x.square().sum() + y.penalty).backward()
        grads = [p.grad for p in (features.x, *part.parameters())]
        results.append((y.x, y.penalty, y.extra["updates"], *grads))
    for plain, padded in zip(*results, strict=True):
        assert plain.isfinite().all()
        assert torch.equal(plain, padded)


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_always_updates_and_pickle(kind):
    part, features = build(kind, layers=2, budget=1.0), sequence([[1], [1]])
    y = part(features)
    assert (y.penalty, y.extra["updates"]) == (1, 1)
    new = transition(part, features.x[1].flatten(), first(part))
    torch.testing.assert_close(y.x[1].flatten(), new[-1][0], rtol=0, atol=1e-10)
    assert torch.equal(pickle.loads(pickle.dumps(part))(features).x, y.x)


@pytest.mark.parametrize("mask", ["all", "any", "prefix"])
@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_windows_one_after_the_other_are_the_whole(kind, length, mask):
    """Each row is some videos laid end to end; states and sums go on inside of one."""
    part, features = build(kind, layers=2).eval(), sequence(MASKS[mask])
    start = torch.zeros(3, T, dtype=torch.bool)
    for place in ((0, 0), (1, 0), (1, 3), (2, 0), (2, 7)):
        start[place] = True
    pieces = []
    for begin in range(0, T, length):
        x, real, starts = (t[:, begin : begin + length] for t in (*features[:2], start))
        pieces.append(part(Features(x, real, extra={"start": starts})).x)
    wanted = torch.zeros_like(torch.cat(pieces, 1))
    for b, row in enumerate(start):
        for begin, end in itertools.pairwise([*row.nonzero().flatten().tolist(), T]):
            at = slice(b, b + 1), slice(begin, end)
            wanted[at] = part(Features(features.x[at], features.mask[at])).x
    torch.testing.assert_close(torch.cat(pieces, 1), wanted, rtol=0, atol=1e-10)


def test_a_window_that_starts_afresh_teaches_the_first_state():
    part, features = build(), sequence([[1, 1]])
    for afresh in (True, False):
        part.zero_grad()
        start = torch.tensor([[afresh, False]])
        part(features._replace(extra={"start": start})).x.sum().backward()
        learns = part.start.grad is not None and bool(part.start.grad.any())
        assert learns == afresh


# ----------------------------------------------------------------------------- size and start


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize(
    ("kind", "gates", "states", "biases"), [(SkipLSTM, 4, 2, 1), (SkipGRU, 3, 1, 2)]
)
def test_parameters(kind, gates, states, biases, layers):
    wanted = sum(
        gates * 6 * (inputs + 6) + biases * gates * 6 + states * 6 for inputs in [4, 6, 6][:layers]
    )
    part = kind(INP, hidden=6, layers=layers)
    assert sum(p.numel() for p in part.parameters()) == wanted + 6 + 1


def test_the_published_sizes():
    with torch.device("meta"):
        part = SkipLSTM(Shape(250, 2048, 1, 1), hidden=512, layers=2, to="one")
        head = Linear(part.out, [str(i) for i in range(101)])
    of_layers = [sum(p.numel() for p in layer.parameters()) for layer in part.layers]
    assert of_layers == [5_244_928, 2_099_200]
    assert sum(p.numel() for p in part.gate.parameters()) == 513
    assert part.start.shape == (2 * 2 * 512,)
    assert sum(p.numel() for p in head.parameters()) == 51_813


@pytest.mark.parametrize("kind", KINDS)
def test_start(kind):
    part = kind(INP, hidden=4, layers=2)
    assert part.gate.bias.item() == 1
    assert not part.start.any()
    for layer in part.layers:
        blocks = layer.input.bias.chunk(layer.gates)
        forget = [1] if kind is SkipLSTM else []
        assert [i for i, block in enumerate(blocks) if block.any()] == forget
        assert all((blocks[i] == 1).all() for i in forget)
        assert layer.state.bias is None or not layer.state.bias.any()
        for weight in layer.state.weight.chunk(layer.gates):
            torch.testing.assert_close(weight @ weight.T, torch.eye(4), rtol=0, atol=1e-5)
    assert part(sequence(MASKS["all"], dtype=torch.float32)).extra["updates"] == 1


# ----------------------------------------------------------------------------- dtypes, compilers


@pytest.mark.parametrize("kind", KINDS)
def test_in_half_precision_decisions_add_up_in_float32(kind):
    part = steady(kind, 0.13, layers=2, dtype=torch.float32, budget=1.0)
    features = sequence(MASKS["any"], dtype=torch.float32)
    wanted = part(features)
    with torch.autocast("cpu", torch.bfloat16):
        y = part(features)
    (y.x.float().sum() + y.penalty).backward()
    torch.testing.assert_close(y.x.float(), wanted.x, rtol=0.05, atol=0.05)
    assert (y.penalty, y.extra["updates"]) == (wanted.penalty, wanted.extra["updates"])
    half = features._replace(x=features.x.bfloat16())
    *_, h, found, total = part.bfloat16().read(half, None)[1]
    assert h.dtype == (torch.float32 if kind is SkipLSTM else torch.bfloat16)  # c, or h
    assert (found.dtype, total.dtype) == (torch.float32, torch.float32)
    y = part(half)
    assert y.x.dtype == torch.bfloat16
    assert y.extra["updates"] == wanted.extra["updates"]
    torch.testing.assert_close(y.x.float(), wanted.x, rtol=0.05, atol=0.05)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_one_decides_by_its_input(kind):
    part = build(kind, layers=2, budget=0.1).eval()
    exported = torch.export.export(part, (sequence(MASKS["all"]),)).module()
    for mask in MASKS.values():
        features = sequence(mask, padding=7.0)
        got, wanted = exported(features), part(features)
        torch.testing.assert_close(got.x, wanted.x, rtol=0, atol=1e-10)
        torch.testing.assert_close(got.penalty, wanted.penalty)
        torch.testing.assert_close(got.extra["updates"], wanted.extra["updates"])


@pytest.mark.parametrize("kind", KINDS)
def test_it_compiles_to_one_graph(kind):
    part, features = build(kind, layers=2, budget=0.1), sequence(MASKS["any"])
    torch._dynamo.reset()
    got = torch.compile(part, backend="eager", fullgraph=True)(features)
    torch.testing.assert_close(got.x, part(features).x, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("inp", "options", "sentence"),
    [
        (Shape(T, 4, 7, 7), {}, "maps of 7x7; put spatial_pool before it"),
        (Shape(T, None, 1, 1), {}, "fixed number of channels"),
        (INP, {"hidden": 0}, "1 or more hidden units and layers, but got 0 and 1"),
        (INP, {"layers": 0}, "1 or more hidden units and layers, but got 6 and 0"),
        (INP, {"budget": -1.0}, "a budget of 0 or more, but got -1.0; set it to 0"),
        (INP, {"target": 12.0}, "a share of the steps, but got 12.0; leave it out"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_refuses(kind, inp, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        kind(inp, **{"hidden": 6, **options})
