import os
import pickle
import shutil
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from flows import clip, moving
from recipes_for_tests import write
from textures import MARGIN, endpoint_error, grid, pair, smooth_flow
from torch._dynamo.utils import counters
from torch.nn.functional import pad
from typer.testing import CliRunner

from actionkit import builder, recipe
from actionkit.cli import app
from actionkit.contracts import Shape
from actionkit.data.transforms import tvl1 as module
from actionkit.data.transforms.dis import DISFlow
from actionkit.data.transforms.kinds import dequantize_flow
from actionkit.data.transforms.mirror import Mirror
from actionkit.data.transforms.normalize import Normalize
from actionkit.data.transforms.stack import FlowStack
from actionkit.data.transforms.tvl1 import (
    TVL1Flow,
    gray,
    iterate,
    iterate_pure,
    linearize,
    tvl1,
)
from actionkit.errors import RunError

SEEDS = (0, 1, 2)
REFERENCE = {  # mean endpoint error in pixels over SEEDS, which the test below finds again:
    # cv2.optflow.createOptFlow_DualTVL1() of opencv-contrib-python-headless 5.0.0, its defaults
    ("smooth", 2): 0.0484,
    ("smooth", 6): 0.0768,
    ("fine", 2): 0.0425,
    ("fine", 6): 0.0613,
}
KNOWN = pytest.mark.parametrize(("kind", "most"), REFERENCE)


def tensor(picture):
    return torch.from_numpy(picture).float()[None, None]


@KNOWN
def test_known_flow_is_found_as_well_as_opencv_finds_it(kind, most):
    pairs = [pair(kind, most, seed) for seed in SEEDS]
    first, second = (torch.cat([tensor(p[i]) for p in pairs]) for i in range(2))
    flow = np.stack([p[2] for p in pairs])
    error = endpoint_error(tvl1(first, second).numpy(), flow)
    assert error <= 1.1 * REFERENCE[kind, most]
    assert endpoint_error(0 * flow, flow) > 5 * error


@KNOWN
def test_the_figures_of_opencv_are_right(kind, most):
    if not hasattr(cv2, "optflow"):
        pytest.skip("cv2.optflow is only in opencv-contrib-python-headless")
    errors = []
    for seed in SEEDS:
        first, second, flow = pair(kind, most, seed)
        found = cv2.optflow.createOptFlow_DualTVL1().calc(first, second, None)
        errors.append(endpoint_error(found.transpose(2, 0, 1), flow))
    assert np.mean(errors) == pytest.approx(REFERENCE[kind, most], rel=0.02)


@pytest.mark.parametrize(("most", "opencv"), [(2, 0.0784), (6, 0.1607)])
def test_known_flow_of_real_pictures(real_data, most, opencv):
    errors = []
    for seed, name in enumerate(("clean_and_jerk", "skateboarding", "ta_chi")):
        ok, frame = cv2.VideoCapture(str(real_data / f"real_clips/kinetics/{name}.mp4")).read()
        assert ok
        picture = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        picture = cv2.resize(picture, (340, 256), interpolation=cv2.INTER_AREA)
        flow = smooth_flow(most, 192, 256, np.random.default_rng(seed))
        x, y = (p.astype(np.float32) for p in grid(192, 256) + flow + [[[42]], [[32]]])
        first = cv2.remap(picture, x, y, cv2.INTER_LANCZOS4)
        found = tvl1(tensor(first), tensor(picture[32:224, 42:298]))[0].numpy()
        errors.append(endpoint_error(found, flow))
    assert np.mean(errors) <= 1.1 * opencv  # what cv2.optflow reaches on these very pictures


@pytest.mark.parametrize(("dx", "dy"), [(2, 0), (0, -2), (3, 1), (-2, 2)])
def test_translation_of_a_texture_is_found(dx, dy):
    x = moving(2, dx, dy)
    flow = tvl1(gray(x[:1]), gray(x[1:]))[0, :, MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert (flow - torch.tensor([dx, dy]).view(2, 1, 1)).norm(dim=0).mean() < 0.1
    assert (flow.mean((1, 2)) - torch.tensor([dx, dy])).abs().max() < 0.05


def test_identical_frames_have_no_flow():
    x = moving(1, 0, 0).expand(3, -1, -1, -1)
    assert (tvl1(gray(x[:1]), gray(x[1:2])) == 0).all()
    assert (TVL1Flow(length=2).apply({"rgb": clip(x)}, [{}])["flow"].x == 128).all()


def test_batch_equals_pair_by_pair_and_is_deterministic():
    first, second = torch.rand(2, 5, 1, 57, 83, generator=torch.Generator().manual_seed(0)) * 255
    whole = tvl1(first, second)
    assert whole.shape == (5, 2, 57, 83)
    assert whole.dtype == torch.float32
    assert torch.equal(whole, tvl1(first, second))
    for i in range(5):
        assert (tvl1(first[i, None], second[i, None])[0] - whole[i]).abs().max() < 1e-4


def naive(flow, p, constant, gradient, tau, lambda_, theta):
    """One iteration as the paper writes it: flow [2, H, W], p [2, 2, H, W] of component, axis."""
    height, width = constant.shape
    new, dual = np.empty_like(flow), np.empty_like(p)
    for y in range(height):
        for x in range(width):
            g = gradient[:, y, x]
            rho, square = constant[y, x] + g @ flow[:, y, x], g @ g
            if rho < -lambda_ * theta * square:
                v = flow[:, y, x] + lambda_ * theta * g
            elif rho > lambda_ * theta * square:
                v = flow[:, y, x] - lambda_ * theta * g
            else:
                v = flow[:, y, x] - (rho * g / square if square > 1e-9 else 0)
            left = p[:, 0, y, x - 1] if x else 0
            above = p[:, 1, y - 1, x] if y else 0
            new[:, y, x] = v + theta * (p[:, 0, y, x] - left + p[:, 1, y, x] - above)
    for d in range(2):
        for y in range(height):
            for x in range(width):
                dx = new[d, y, x + 1] - new[d, y, x] if x + 1 < width else 0.0
                dy = new[d, y + 1, x] - new[d, y, x] if y + 1 < height else 0.0
                most = 1 + tau / theta * np.hypot(dx, dy)
                dual[d, :, y, x] = (p[d, :, y, x] + tau / theta * np.array([dx, dy])) / most
    return new, dual


@pytest.mark.parametrize("form", [iterate, iterate_pure])
def test_an_iteration_is_the_papers(form):
    rng = np.random.default_rng(0)
    flow, p = rng.normal(size=(2, 7, 9)), rng.normal(size=(2, 2, 7, 9))
    p[:, 0, :, -1] = p[:, 1, -1] = 0
    pictures = 255 * torch.from_numpy(rng.random((2, 1, 1, 7, 9)))
    pictures[:, :, :, 1:5, 1:5] = 9.0  # flat: no gradient at all
    data = linearize(*pictures, torch.from_numpy(flow)[None])
    constant, gradient = data.constant[0, 0].numpy(), data.gradient[0].numpy()
    constant[6] *= 1e-3  # so that all three cases of the brightness occur
    constants = {"tau": 0.2, "lambda_": 0.1, "theta": 0.4}
    rho = constant + (gradient * flow).sum(0)
    steps = np.sign(rho) * (np.abs(rho) > 0.04 * (gradient**2).sum(0))
    assert {-1, 0, 1} == set(steps.flatten())
    given = (torch.from_numpy(a)[None] for a in (flow, p[:, 0], p[:, 1]))
    found = [x[0].numpy() for x in form(*given, data, **constants)]
    new, dual = naive(flow, p, constant, gradient, **constants)
    assert np.abs(found[0] - new).max() < 1e-10
    for axis in range(2):
        assert np.abs(found[1 + axis] - dual[:, axis]).max() < 1e-10


def test_brightness_is_linear_around_the_flow():
    x, y = (torch.from_numpy(p)[None, None] for p in grid(12, 14))
    first, second = 3 * x + 2 * y, 3 * x + 2 * y - 7  # any flow with 3 dx + 2 dy = 7 explains it
    flow = torch.tensor([0.6, 0.3], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 12, 14)
    data = linearize(first, second, flow)
    inner = (..., slice(2, -2), slice(2, -2))
    assert (data.gradient[inner] - torch.tensor([3.0, 2.0]).view(2, 1, 1)).abs().max() < 1e-9
    assert (data.constant[inner] + 7).abs().max() < 1e-9
    assert (data.inverse[inner] - 1 / 13).abs().max() < 1e-9
    assert (data.gradient[..., -1] == 0).all()  # from there the flow leads out of the picture
    assert (data.inverse[..., -1] == 0).all()


def sizes_in_turn():
    """Pairs of pictures: square, not square, one pair only; each in several levels."""
    first, second = (torch.cat([tensor(pair("smooth", 2, s)[i]) for s in SEEDS]) for i in (0, 1))
    for count, height, width in ((3, 64, 64), (2, 48, 80), (1, 48, 80), (3, 96, 40), (1, 64, 64)):
        yield [x[:count, :, :height, :width] for x in (first, second)]


@pytest.fixture
def fresh(monkeypatch):
    """Nothing is compiled, neither before nor behind."""
    torch._dynamo.reset()
    module.compiled.cache_clear()
    counters.clear()
    yield monkeypatch
    torch._dynamo.reset()
    module.compiled.cache_clear()


def require_compiled_equals_eager(**options):
    for first, second in sizes_in_turn():
        eager, ours = (tvl1(first, second, compile=c, **options) for c in (False, True))
        off = (ours - eager).norm(dim=1)
        assert off.median() < 1e-4
        assert off.max() < 0.01  # where the picture says nothing, roundings grow
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] <= 3  # square, of any size, a single pair


def test_compiled_iterations_are_one_graph_for_all_sizes(fresh):
    fresh.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    require_compiled_equals_eager(iterations=(2, 3))
    graphs = counters["stats"]["unique_graphs"]
    require_compiled_equals_eager(iterations=(1, 2))
    assert counters["stats"]["unique_graphs"] == graphs > 0


@pytest.mark.slow
def test_compiled_flow_is_the_eager_flow(fresh):
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    require_compiled_equals_eager()
    assert counters["inductor"]
    x = moving(4, 2, 1)
    ours, eager = (TVL1Flow(length=3, compile=c).apply({"rgb": clip(x)}, [{}]) for c in (1, 0))
    off = ours["flow"].x.int() - eager["flow"].x.int()
    assert off.abs().max() <= 1  # of 255: rounded to the other side
    assert (off != 0).float().mean() < 1e-3


def test_says_where_nothing_can_be_compiled(fresh):
    def broken(graph, inputs):
        raise OSError("No working C++ compiler found")

    fresh.setattr(torch, "compile", partial(torch.compile, backend=broken))
    said = r"^tvl1_flow cannot be compiled \(.*No working C\+\+ .*\); set its compile: false$"
    with pytest.raises(RunError, match=said):
        TVL1Flow(length=1, compile=True).apply({"rgb": clip(moving(2, 2, 1))}, [{}])


def test_what_is_compiled_stays_in_its_process(fresh):
    fresh.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    maker = TVL1Flow(length=1, compile=True)
    wanted = maker.apply({"rgb": clip(moving(2, 2, 1))}, [{}])["flow"].x
    assert counters["stats"]["unique_graphs"]
    copy = pickle.loads(pickle.dumps(maker))
    assert copy.compile
    assert torch.equal(copy.apply({"rgb": clip(moving(2, 2, 1))}, [{}])["flow"].x, wanted)
    assert not TVL1Flow(length=1).compile


def test_gray_is_that_of_opencv():
    x = torch.randint(0, 256, (2, 3, 90, 90), dtype=torch.uint8)
    x = torch.cat([x, pad(x[..., :80, :80], (5, 5, 5, 5), value=255)])
    expected = [cv2.cvtColor(f.movedim(0, -1).contiguous().numpy(), cv2.COLOR_RGB2GRAY) for f in x]
    assert np.array_equal(gray(x)[:, 0].numpy(), np.stack(expected))
    assert torch.equal(gray(x[:, :1]), x[:, :1].float())


def test_stored_flow_takes_the_place_of_dis_flow():
    x = torch.cat([moving(4, 2, 0), moving(4, -1, 1, seed=1)])
    options = {"length": 3, "bound": 10.0, "keep": "middle"}
    dis, ours = (kind(**options).apply({"rgb": clip(x)}, [{}]) for kind in (DISFlow, TVL1Flow))
    for name in ("rgb", "flow"):
        assert ours[name].kind == dis[name].kind
        assert ours[name].x.dtype == torch.uint8
        assert ours[name].x.shape == dis[name].x.shape
        assert torch.equal(ours[name].times, dis[name].times)
        assert torch.equal(ours[name].mask, dis[name].mask)
    assert torch.equal(ours["rgb"].x, dis["rgb"].x)
    inner = dequantize_flow(ours["flow"].x[..., MARGIN:-MARGIN, MARGIN:-MARGIN], 10.0)
    motion = torch.tensor([[2, 0]] * 3 + [[-1, 1]] * 3)
    assert (inner.mean((-2, -1)) - motion).abs().max() < 0.1
    shapes = {"rgb": Shape(8, 3, 96, 96)}
    assert TVL1Flow(**options).out(shapes) == DISFlow(**options).out(shapes)


def test_mirrored_frames_have_mirrored_flow():
    clips, draws = {"rgb": clip(moving(2, 2, 1))}, [{"mirror": True}]
    maker, mirror = TVL1Flow(length=1, keep="all"), Mirror()
    one = maker.apply(mirror.apply(clips, draws), draws)
    other = mirror.apply(maker.apply(clips, draws), draws)
    assert (one["flow"].x.int() - other["flow"].x.int()).abs().max() <= 1


def test_in_training_nothing_of_it_asks_for_gradients():
    clips = {"rgb": clip(moving(3, 1, 0))}
    for transform in (TVL1Flow(length=2), FlowStack(length=2), Normalize()):
        clips = transform.apply(clips, [{}])
    assert clips["flow"].x.shape == (1, 1, 1, 4, 96, 96)
    assert not clips["flow"].x.requires_grad
    weight = torch.ones(4, 1, 1, requires_grad=True)
    (clips["flow"].x * weight).sum().backward()  # no inference tensor either
    assert weight.grad is not None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"pyramid": (0, 0.5)}, "at least 1 level, warp and iteration, but gets 0, 3 and 10"),
        ({"iterations": (0, 10)}, "at least 1 level, warp and iteration, but gets 5, 0 and 10"),
        ({"iterations": (3, 0)}, "at least 1 level, warp and iteration, but gets 5, 3 and 0"),
        ({"pyramid": (5, 1.0)}, "a factor between 0 and 1 for its pyramid, but gets 1.0"),
        ({"constants": (0.3, 0.15, 0.3)}, "tau at most 0.25, .* gets 0.3, 0.15 and 0.3"),
        ({"constants": (0.25, 0.0, 0.3)}, "tau, lambda and theta above 0, .* gets 0.25, 0.0"),
    ],
)
def test_refuses(options, sentence):
    with pytest.raises(ValueError, match=f"^takes .*{sentence}"):
        TVL1Flow(length=1, **options)


def test_refuses_frames_that_are_too_small():
    with pytest.raises(ValueError, match=r"^takes frames of at least 16x16 pixels, but gets 12x40"):
        TVL1Flow(length=1).out({"rgb": Shape(2, 3, 12, 40)})
    x = torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8)
    assert TVL1Flow(length=1).apply({"rgb": clip(x, "gray")}, [{}])["flow"].x.shape[-1] == 16


def test_two_stream_trains_with_flow_of_the_device_where_only_positions_change(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("ACTIONKIT_CACHE", str(tmp_path / "cache"))
    values = recipe.load("two_stream").values
    for pipeline in (values["data"]["train"], values["data"]["eval"]):
        crop, maker, stack = pipeline["per_sample"]
        assert (maker["use"], stack["use"]) == ("dis_flow", "flow_stack")
        pipeline["per_sample"] = [crop]
        pipeline["per_batch"] = [{**maker, "use": "tvl1_flow"}, stack, *pipeline["per_batch"]]
    file = write(tmp_path, values)
    small = ["data.dataset.train_scenes=1", "data.dataset.val_scenes=1", "data.batch=4"]
    found = builder.blueprint(file, small)
    assert found.problems == []
    assert found.stages.shapes == {"rgb": Shape(6, 3, 56, 56), "flow": Shape(6, 6, 56, 56)}
    once = [f"trainer.{n}=1" for n in ("max_epochs", "limit_train_batches", "limit_val_batches")]
    here = ["data.workers=0", "trainer.accelerator=cpu", "trainer.check_val_every_n_epoch=1"]
    run = ["fit", str(file), *small, *once, *here, "--run", str(tmp_path / "run")]
    result = CliRunner().invoke(app, run, catch_exceptions=False)
    assert result.exit_code == 0, result.output
