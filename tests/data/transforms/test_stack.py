import pytest
import torch
from flows import clip

from actionkit.contracts import Shape
from actionkit.data.transforms.kinds import dequantize_flow
from actionkit.data.transforms.stack import FlowStack, along_trajectories


def test_stack_interleaves_exactly():
    x = torch.arange(6 * 2, dtype=torch.uint8).view(6, 2, 1, 1).expand(6, 2, 4, 5).contiguous()
    inp = clip(x, "flow")
    out = FlowStack(length=3).apply({"flow": inp}, [{}])["flow"]
    assert out.x.shape == (1, 1, 2, 6, 4, 5)
    assert out.x[0, 0, :, :, 0, 0].tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert out.x.data_ptr() == inp.x.data_ptr()  # a view
    assert out.times.tolist() == [[[0, 3]]]
    assert out.kind == "flow"


def test_stack_of_channels_last_memory_gives_the_same():
    x = torch.randint(0, 256, (6, 4, 5, 2), dtype=torch.uint8).movedim(-1, -3)
    a, b = (FlowStack(length=3).apply({"flow": clip(y, "flow")}, [{}])["flow"].x
            for y in (x, x.contiguous()))  # fmt: skip
    assert torch.equal(a, b)


def test_mean_subtraction_takes_the_motion_of_the_camera():
    x = torch.randint(0, 200, (4, 2, 6, 7), dtype=torch.uint8)
    pan = torch.tensor([10, 40], dtype=torch.uint8).view(2, 1, 1)
    stack = FlowStack(length=2, mean_subtraction=True)
    still, panned, floats = (
        stack.apply({"flow": clip(y, "flow")}, [{}])["flow"].x
        for y in (x, x + pan, dequantize_flow(x))
    )
    assert still.dtype == torch.float32
    assert still.mean((-1, -2)).abs().max() < 1e-6
    assert (still - panned).abs().max() < 1e-6
    assert torch.equal(still, floats)
    field = x[1, 0].double()  # dx of the second field: channel 2 of the first stack
    assert (still[0, 0, 0, 2] - (field - field.mean()) / 127.5).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ({"rgb": Shape(8, 3, 64, 64)}, "takes the modality 'flow', but there is 'rgb'"),
        ({"flow": Shape(8, 2, 64, 64)}, "stacks 5 fields, but gets 8; set its length"),
        (
            {"flow": Shape(5, 20, 64, 64)},
            "stacks flow of 2 channels, or takes stacks of 10, but 'flow' has 20; set its length",
        ),
    ],
)
def test_flow_stack_refuses(shapes, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        FlowStack(length=5).out(shapes)


def test_flow_stack_refuses_options_that_do_not_fit():
    for options, sentence in [
        ({"length": 0}, r"^takes a length of at least 1, but gets 0"),
        ({"length": 4, "along": "trajectories"}, r"^follows .* its bound is None; give it the"),
        ({"length": 3, "paths": 2}, r"^takes paths of equal length, but gets 2 in a length of 3;"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            FlowStack(**options)


def follow(fields, bound):
    """Fields [L, 2, H, W], fractions of bound, along every pixel's path: one pixel at a time."""
    length, _, height, width = fields.shape
    stack = torch.zeros_like(fields)
    for y in range(height):
        for x in range(width):
            px, py = float(x), float(y)
            for k in range(length):
                cx, cy = min(max(px, 0), width - 1), min(max(py, 0), height - 1)
                j, i = min(int(cx), width - 2), min(int(cy), height - 2)
                fx, fy = cx - j, cy - i
                four = fields[k, :, i : i + 2, j : j + 2]
                rows = four[..., 0] * (1 - fx) + four[..., 1] * fx
                stack[k, :, y, x] = rows[:, 0] * (1 - fy) + rows[:, 1] * fy
                px += bound * float(stack[k, 0, y, x])
                py += bound * float(stack[k, 1, y, x])
    return stack


def test_trajectories_sample_later_fields_where_the_pixel_has_gone():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2 * 4, 2, 3, 3, generator=generator, dtype=torch.float64) * 2 - 1
    fields = torch.nn.functional.interpolate(coarse, (8, 10), mode="bilinear")
    found = along_trajectories(fields.unflatten(0, (2, 4)), bound=3.0)
    for n in range(2):
        expected = follow(fields[4 * n : 4 * n + 4], 3.0)
        assert (found[n] - expected).abs().max() < 1e-10
        assert (expected - fields[4 * n : 4 * n + 4]).abs().max() > 0.1  # they did move


@pytest.mark.parametrize("paths", [1, 2])
def test_stacks_along_trajectories(paths):
    x = torch.randint(0, 256, (8, 2, 6, 7), dtype=torch.uint8)
    stack = FlowStack(length=4, along="trajectories", bound=2.0, paths=paths)
    out = stack.apply({"flow": clip(x, "flow")}, [{}])["flow"]
    assert out.x.shape == (1, 1, 2, 8, 6, 7)
    assert out.x.dtype == torch.float32
    size = 4 // paths
    for start in range(0, 8, size):
        expected = follow(dequantize_flow(x[start : start + size]).double(), 2.0)
        k, channel = start // 4, 2 * (start % 4)
        found = out.x[0, 0, k, channel : channel + 2 * size].unflatten(0, (size, 2))
        assert (found - expected).abs().max() < 1e-4


def test_without_motion_trajectories_are_the_pixels():
    x = torch.rand(4, 2, 6, 7) * 1e-6
    plain, along = (
        FlowStack(length=4, **options).apply({"flow": clip(x, "flow")}, [{}])["flow"].x
        for options in ({}, {"along": "trajectories", "bound": 1.0})
    )
    assert (plain - along).abs().max() < 1e-9


def test_mean_subtraction_leaves_the_trajectories_those_of_the_motion():
    x = torch.randint(0, 256, (4, 2, 6, 7), dtype=torch.uint8)
    along, centred = (
        FlowStack(length=4, along="trajectories", bound=2.0, mean_subtraction=m).apply(
            {"flow": clip(x, "flow")}, [{}]
        )["flow"].x
        for m in (False, True)
    )  # fmt: skip
    means = dequantize_flow(x).mean((-2, -1)).flatten()  # of each field, before it is sampled
    assert (along[0, 0, 0] - centred[0, 0, 0] - means[:, None, None]).abs().max() < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mean_subtraction": True},
        {"along": "trajectories", "bound": 3.0},
        {"along": "trajectories", "bound": 3.0, "paths": 2, "mean_subtraction": True},
    ],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_flow_that_comes_stacked_is_treated_as_if_stacked_here(options, dtype):
    x = torch.randint(0, 256, (12, 2, 6, 7), dtype=torch.uint8)
    fields = clip(x if dtype == torch.uint8 else dequantize_flow(x), "flow")
    fields.mask[..., 9] = False
    fields.times[..., 9] = torch.nan
    stack = FlowStack(length=4, **options)
    wanted = stack.apply({"flow": fields}, [{}])["flow"]
    stored = FlowStack(length=4).apply({"flow": fields}, [{}])["flow"]  # as a store would give it
    assert stored.x.shape == (1, 1, 3, 8, 6, 7)
    last = stored.x.movedim(3, -1).contiguous().movedim(-1, 3)  # as a decoder's memory
    for x in (stored.x, last):
        found = stack.apply({"flow": stored._replace(x=x)}, [{}])["flow"]
        assert found.x.dtype == wanted.x.dtype
        assert torch.equal(found.x, wanted.x)
        assert found.mask.tolist() == wanted.mask.tolist() == [[[True, True, False]]]
        assert torch.equal(found.times.nan_to_num(-1), wanted.times.nan_to_num(-1))
        assert found.kind == "flow"
    assert (wanted.x.float() - stored.x.float()).any() == bool(options)
    shapes = {"flow": Shape(3, 8, 6, 7)}
    assert stack.out(shapes) == shapes
    unstacked = {"flow": Shape(12, 2, 6, 7)}
    assert stack.out(unstacked) == shapes


def test_stacks_of_any_number_are_taken_where_a_single_field_is_one():
    x = torch.randint(0, 256, (5, 2, 6, 7), dtype=torch.uint8)
    clips = {"flow": clip(x, "flow")}
    stack = FlowStack(length=1)
    assert stack.out({"flow": Shape(5, 2, 6, 7)}) == {"flow": Shape(5, 2, 6, 7)}
    assert torch.equal(stack.apply(clips, [{}])["flow"].x, clips["flow"].x)
