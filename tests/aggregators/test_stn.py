import itertools
import math
import pickle

import pytest
import torch
from torch.nn import functional as F

from actionkit.aggregators.fc import FC
from actionkit.aggregators.flatten import Flatten
from actionkit.aggregators.pooling import Mean, SpatialPool
from actionkit.aggregators.stn import STN, Localise
from actionkit.contracts import Features, Make, Shape
from actionkit.network import Parts

KINDS = ["affine", "attention", "translation"]
GAPS = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)


def clips(mask, channels, height, width, padding=0.0):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*mask.shape, channels, height, width, generator=generator).double()
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


def pictures(channels, height, width, batch=1, steps=1):
    return clips(torch.ones(batch, steps, dtype=torch.bool), channels, height, width)


def look(inp):
    """A localisation net for maps of any size."""
    pool = SpatialPool(inp)
    return Parts([pool, FC(pool.out, width=4, activation="tanh")])


LOOKING = Make(look)


def build(features, *, learned=True, **options):
    torch.manual_seed(0)
    options.setdefault("localise", LOOKING)
    part = STN(Shape(*features.x.shape[1:]), **options).double()
    if learned:
        torch.nn.init.normal_(part.theta.weight, std=0.5)
    return part


def fixed(features, rows, **options):
    """A transformer whose theta is `rows`, whatever it sees."""
    part = build(features, learned=False, **options)
    a, b, tx, c, d, ty = rows
    bias = [a, b, math.atanh(tx), c, d, math.atanh(ty)]
    part.theta.bias.data = torch.tensor(bias, dtype=torch.float64)
    return part


def bilinear(x, theta, height, width, border=False):
    """The formula of the paper: U [C, H, W] under theta [2, 3], by sums over all pixels."""
    rows, columns = x.shape[1:]
    m, n = torch.arange(columns).double(), torch.arange(rows).double()
    result = []
    for i, j in itertools.product(range(height), range(width)):
        place = [(2 * j + 1) / width - 1, (2 * i + 1) / height - 1, 1]
        across, down = theta @ torch.tensor(place, dtype=theta.dtype)
        across, down = ((across + 1) * columns - 1) / 2, ((down + 1) * rows - 1) / 2  # in pixels
        if border:
            across, down = across.clamp(0, columns - 1), down.clamp(0, rows - 1)
        near = (1 - (across - m).abs()).clamp(min=0) * (1 - (down - n).abs()).clamp(min=0)[:, None]
        result.append((x * near).sum((1, 2)))
    return torch.stack(result, 1).unflatten(1, (height, width))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vectors", [False, True])
def test_starts_as_the_identity(kind, vectors):
    for height, width in ((32, 64), (20, 27)):
        features = pictures(4, height, width, batch=2, steps=3)
        features = features._replace(x=features.x.float())
        part = STN(Shape(3, 4, height, width), kind=kind, vectors=vectors)
        y = part(features)
        assert part.out == Shape(3, 4, height, width)
        if height == 32:  # places are whole numbers of 1/32, exact in floats
            assert torch.equal(y.x, features.x)
        torch.testing.assert_close(y.x, features.x, atol=1e-5, rtol=0)
        identity = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(2, 3, 2, 3)
        assert torch.equal(y.extra["theta"], identity)


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("size", [None, 4, (9, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_sum_of_the_paper_in_values_and_gradients(kind, size, padding):
    features = clips(GAPS, 2, 5, 7)
    part = build(features, kind=kind, size=size, padding=padding)
    features.x.requires_grad_()
    y = part(features)
    assert y.x.shape == (4, *part.out)
    wanted = torch.zeros_like(y.x)
    for b, t in GAPS.nonzero().tolist():
        theta = y.extra["theta"][b, t]
        wanted[b, t] = bilinear(features.x[b, t], theta, *part.out[2:], padding == "border")
    torch.testing.assert_close(y.x, wanted, atol=1e-10, rtol=0)
    wished = torch.randn(y.x.shape, generator=torch.Generator().manual_seed(1)).double()
    inputs = [features.x, *part.parameters()]
    got = torch.autograd.grad((y.x * wished).sum(), inputs, retain_graph=True)
    reference = torch.autograd.grad((wanted * wished).sum(), inputs)
    for own, other in zip(got, reference, strict=True):
        torch.testing.assert_close(own, other, atol=1e-10, rtol=0)


def test_gradients_equal_finite_differences():
    features = pictures(2, 5, 6, steps=2)
    part = build(features, vectors=True)

    def warped(weight, bias):
        given = {"theta.weight": weight, "theta.bias": bias}
        return torch.func.functional_call(part, given, (features,)).x

    given = (part.theta.weight.detach().requires_grad_(), part.theta.bias.detach().requires_grad_())
    assert torch.autograd.gradcheck(warped, given)


@pytest.mark.parametrize(("right", "down"), [(2, 0), (0, -3), (-1, 4)])
def test_a_translation_by_whole_pixels_is_a_shift_with_a_blank_border(right, down):
    features = pictures(3, 10, 14)
    theta = (1, 0, 2 * right / 14, 0, 1, 2 * down / 10)
    seen = torch.ones(1, 1, 1, 10, 14).double()
    rolled = features.x.roll((-down, -right), (-2, -1))
    row, column = torch.arange(10)[:, None] + down, torch.arange(14) + right
    inside = (row >= 0) & (row < 10) & (column >= 0) & (column < 14)
    y = fixed(features, theta)(features)
    torch.testing.assert_close(y.x, rolled * inside)
    border = fixed(features, theta, padding="border")
    torch.testing.assert_close(border(features).x[..., inside], rolled[..., inside])
    assert torch.allclose(border(features._replace(x=seen.expand(1, 1, 3, 10, 14))).x, seen)


def test_a_quarter_turn_turns_maps_and_their_vectors():
    features = pictures(4, 8, 8)
    quarter = (0, -1, 0, 1, 0, 0)
    turned = torch.rot90(features.x, 1, (3, 4))
    torch.testing.assert_close(fixed(features, quarter)(features).x, turned)
    y = fixed(features, quarter, vectors=True)(features).x
    torch.testing.assert_close(y[:, :, 0::2], turned[:, :, 1::2])  # what went down goes right
    torch.testing.assert_close(y[:, :, 1::2], -turned[:, :, 0::2])  # what went right goes up


@pytest.mark.parametrize("size", [None, (6, 9)])
def test_vectors_lead_to_where_the_warped_picture_moves(size):
    """What moves by v from q is at A^-1 (q + v) of the result, in pixels of frames not square."""
    height, width = 12, 20
    v = torch.tensor([1.5, -0.7]).double()
    x = v.repeat(2)[:, None, None].expand(1, 1, 4, height, width)  # the same everywhere, twice
    features = Features(x, torch.ones(1, 1, dtype=torch.bool))
    theta = torch.tensor([[0.7, 0.2, 0.1], [-0.3, 0.8, -0.05]]).double()
    part = fixed(features, theta.flatten().tolist(), vectors=True, padding="border", size=size)
    rows, columns = size or (height, width)
    here, there = torch.tensor([columns, rows]).double(), torch.tensor([width, height]).double()
    linear, shift = theta[:, :2], theta[:, 2]
    p = torch.tensor([4.0, 3.0]).double()  # any pixel
    q = (linear @ ((2 * p + 1) / here - 1) + shift + 1) * there / 2 - 0.5
    after = torch.linalg.solve(linear, (2 * (q + v) + 1) / there - 1 - shift)
    moved = (after + 1) * here / 2 - 0.5 - p
    y = part(features).x[0, 0]
    torch.testing.assert_close(y, moved.repeat(2)[:, None, None].expand_as(y))


def test_a_rotation_of_frames_not_square_keeps_the_length_of_vectors():
    height, width, angle = 30, 40, 0.4
    y, x = torch.meshgrid(
        torch.arange(height).double() - 14.5, torch.arange(width).double() - 19.5, indexing="ij"
    )
    swirl = torch.stack([-y, x])[None, None]  # a rotation's field looks the same from every side
    cos, sin = math.cos(angle), math.sin(angle)
    theta = (cos, -sin * height / width, 0, sin * width / height, cos, 0)
    features = Features(swirl, torch.ones(1, 1, dtype=torch.bool))
    warped = fixed(features, theta, vectors=True)(features).x
    middle = (..., slice(8, 22), slice(12, 28))  # seen from within the frame
    torch.testing.assert_close(warped[middle], swirl[middle])


def test_a_flattened_picture_has_finite_vectors_and_gradients():
    features = pictures(2, 6, 6)
    part = fixed(features, (0, 0, 0, 0, 0, 0), vectors=True)
    y = part(features).x
    y.square().sum().backward()
    assert y.isfinite().all()
    assert part.theta.bias.grad.isfinite().all()


@pytest.mark.parametrize("padding", [0.0, 1e30, math.nan, math.inf])
@pytest.mark.parametrize("over_time", ["each", "tied"])
def test_a_clip_is_warped_as_if_its_real_steps_stood_alone(over_time, padding):
    features = clips(GAPS, 3, 20, 24, padding)
    torch.manual_seed(0)
    part = STN(Shape(4, 3, 20, 24), over_time=over_time).double()
    torch.nn.init.normal_(part.theta.weight)
    features.x.requires_grad_()
    y = part(features)
    assert y.mask is features.mask
    assert not y.x[~GAPS].any()
    for b, real in enumerate(GAPS[:3]):
        alone = Features(features.x[b : b + 1, real], torch.ones(1, int(real.sum())).bool())
        torch.testing.assert_close(y.x[b, real], part(alone).x[0])
        if over_time == "tied":
            assert (y.extra["theta"][b] == y.extra["theta"][b, :1]).all()
    y.x.square().sum().backward()
    assert features.x.grad.isfinite().all()
    for parameter in part.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


def test_tied_is_each_where_all_frames_are_equal():
    features = pictures(3, 18, 21, batch=2, steps=5)
    features = features._replace(x=features.x[:, :1].expand(-1, 5, -1, -1, -1))
    each, tied = (STN(Shape(5, 3, 18, 21), over_time=o).double() for o in ("each", "tied"))
    torch.nn.init.normal_(each.theta.weight)
    tied.load_state_dict(each.state_dict())
    torch.testing.assert_close(tied(features).x, each(features).x)
    assert (each(features).x - features.x).abs().max() > 0.1


def test_a_localisation_net_that_leaves_one_vector_a_clip_ties_its_steps():
    def pooled(inp):
        parts = LOOKING(inp)
        return Parts([parts, Mean(parts.out)])

    features = clips(GAPS, 3, 6, 5)
    tied = build(features, over_time="tied")
    pooling = build(features, localise=Make(pooled))
    pooling.theta.load_state_dict(tied.theta.state_dict())
    torch.testing.assert_close(pooling(features).x, tied(features).x)


def test_smooth_costs_what_theta_changes_between_real_steps():
    features = clips(GAPS, 3, 6, 5)
    y = build(features, smooth=0.3)(features)
    total = 0.0
    for b, real in enumerate(GAPS):
        thetas = y.extra["theta"][b, real]
        total += sum((one - two).square().sum() for one, two in itertools.pairwise(thetas))
    assert total > 0
    torch.testing.assert_close(y.penalty, 0.3 * total / 4)
    before = features._replace(penalty=torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(build(features, smooth=0.3)(before).penalty, 1 + 0.3 * total / 4)
    assert build(features)(features).penalty is None
    one_step = clips(GAPS[:, :1], 3, 6, 5)
    assert build(one_step, smooth=0.3)(one_step).penalty == 0


def test_the_usual_network_has_the_sizes_of_the_literature():
    with torch.device("meta"):
        part = STN(Shape(16, 3, 112, 112))
        seen = torch.empty(2, 3, 112, 112)
        sizes = []
        for layer in part.localise.net:
            seen = layer(seen)
            sizes.append(tuple(seen.shape[1:]))
    assert sizes[0] == (8, 106, 106)
    assert sizes[1] == (8, 53, 53)
    assert sizes[3] == (10, 49, 49)
    assert sizes[4] == (10, 24, 24)
    assert sizes[6:8] == [(5760,), (32,)]
    layers = [m for m in part.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    counts = sorted(sum(p.numel() for p in layer.parameters()) for layer in layers)
    assert counts == sorted([1184, 2010, 184_352, 198])
    assert sum(counts) == 187_744
    attention, translation = (
        STN(Shape(1, 3, 32, 32), kind=kind).theta.bias.numel() for kind in KINDS[1:]
    )
    assert (attention, translation) == (3, 2)


@pytest.mark.parametrize(("height", "width"), [(18, 18), (19, 40), (33, 21)])
def test_the_usual_network_fits_maps_of_any_size_from_18(height, width):
    inp = Shape(2, 3, height, width)
    y = Localise(inp)(pictures(3, height, width, steps=2)._replace(x=torch.randn(1, *inp)))
    assert y.x.shape == (1, 2, 32, 1, 1)


def test_places_leave_the_picture_no_further_than_its_edge():
    features = pictures(3, 6, 5)
    part = build(features, kind="translation")
    part.theta.bias.data = torch.tensor([1e3, -1e3]).double()
    shift = part(features).extra["theta"][0, 0, :, 2]
    torch.testing.assert_close(shift, torch.tensor([1.0, -1.0]).double())


def test_half_precision_reads_maps_where_full_precision_does():
    features = pictures(3, 32, 64, batch=2, steps=2)
    features = features._replace(x=features.x.float())
    torch.manual_seed(0)
    part = STN(Shape(2, 3, 32, 64))
    part.theta.bias.data += torch.tensor([0.11, -0.07, 0.03, 0.05, -0.13, 0.02])
    wanted = part(features)
    with torch.autocast("cpu", torch.bfloat16):
        got = part(features)
        half = part(features._replace(x=features.x.bfloat16()))
    assert got.extra["theta"].dtype == torch.float32
    assert torch.equal(got.extra["theta"], wanted.extra["theta"])
    assert torch.equal(got.x, wanted.x)
    assert half.x.dtype == torch.bfloat16
    torch.testing.assert_close(half.x.float(), wanted.x, atol=0.05, rtol=0.02)


def test_what_the_parts_inside_say_and_what_came_is_handed_on():
    class Telling(FC):
        def forward(self, features):
            extra = {**(features.extra or {}), "seen": torch.ones(())}
            return super().forward(features)._replace(penalty=torch.tensor(0.25), extra=extra)

    def parts(inp):
        flat = Flatten(inp)
        return Parts([flat, Telling(flat.out, width=4)])

    features = pictures(3, 6, 5)
    boxes = torch.rand(1, 1, 2, 4)
    came = features._replace(boxes=boxes, extra={"a": torch.zeros(())})
    y = build(features, localise=Make(parts))(came)
    assert y.boxes is boxes
    assert y.penalty == 0.25
    assert set(y.extra) == {"a", "seen", "theta"}
    assert set(came.extra) == {"a"}


def test_batches_of_padding_only_give_zeros():
    features = clips(torch.zeros(2, 3, dtype=torch.bool), 3, 18, 18, math.nan)
    part = STN(Shape(3, 3, 18, 18), size=9, smooth=1.0).double()
    y = part(features)
    assert y.x.shape == (2, 3, 3, 9, 9)
    assert not y.x.any()
    assert y.penalty == 0


def test_sizes_that_vary_and_pickle():
    part = STN(Shape(None, 3, None, None), localise=LOOKING).double()
    assert part.out == Shape(None, 3, None, None)
    features = pictures(3, 9, 11, steps=2)
    torch.testing.assert_close(part(features).x, features.x)
    same = pickle.loads(pickle.dumps(part))
    assert torch.equal(same(features).x, part(features).x)
    assert STN(Shape(None, 3, None, None), localise=LOOKING, size=(4, 5)).out == Shape(
        None, 3, 4, 5
    )


def test_agrees_with_torch_on_the_grid():
    features = pictures(3, 7, 9)
    part = build(features, size=(5, 6))
    y = part(features)
    grid = F.affine_grid(y.extra["theta"][0], [1, 3, 5, 6], align_corners=False)
    torch.testing.assert_close(y.x[0], F.grid_sample(features.x[0], grid, align_corners=False))


@pytest.mark.parametrize(
    ("inp", "options", "sentence"),
    [
        (Shape(4, 6, 1, 1), {}, "warps maps, but gets vectors of 1x1; put it before what pools"),
        (Shape(4, 6, 7, 17), {}, "18x18 or larger, but gets 7x17; give it parts"),
        (Shape(4, 6, None, 32), {}, r"18x18 or larger, but gets \?x32"),
        (Shape(4, None, 32, 32), {}, "needs a fixed number of channels"),
        (Shape(4, 3, 32, 32), {"vectors": True}, "dx and dy in turn as its channels, but gets 3"),
        (Shape(4, 3, 32, 32), {"size": 0}, "a size of 1 or more rows and columns, but got 0"),
        (Shape(4, 3, 32, 32), {"smooth": -1.0}, "a factor of 0 or more, but got -1.0; set smooth"),
        (
            Shape(4, 3, 32, 32),
            {"smooth": 0.5, "over_time": "tied"},
            "but got 0.5 for one theta a clip; set smooth to 0",
        ),
        (
            Shape(4, 3, 32, 32),
            {"localise": Make(lambda inp: Parts([Mean(inp)]))},
            "but localise leaves maps of 32x32; put flatten or spatial_pool behind it",
        ),
        (
            Shape(4, 3, 32, 32),
            {"localise": Make(lambda inp: Parts([Flatten(inp._replace(steps=2))]))},
            "for each of 4 steps, but localise leaves 2; let it keep them",
        ),
    ],
)
def test_refuses(inp, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        STN(inp, **options)
