import io
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from actionkit.contracts import Features, Make, Shape, VideoReadError, pack, unpack


def features(batch=3, steps=4, size=(5, 2, 2), real=(4, 4, 4), **fields) -> Features:
    mask = torch.arange(steps) < torch.tensor(real)[:, None]
    return Features(torch.randn(batch, steps, *size), mask, **fields)


# ------------------------------------------------------------------------------------- shape


def test_channels_that_vary_are_refused():
    assert Shape(1, 7, 1, 1).require_channels() == 7
    with pytest.raises(ValueError, match=r"^needs a fixed number of channels, but it varies here$"):
        Shape(1, None, 1, 1).require_channels()


@pytest.mark.parametrize(
    ("shape", "size"),
    [(Shape(3, 8, 7, 5), "7x5"), (Shape(3, 8, None, None), r"\?x\?"), (Shape(3, 8, 1, 4), "1x4")],
)
def test_maps_are_no_vectors(shape, size):
    assert Shape(None, 8, 1, 1).require_vectors() == 8
    sentence = f"^takes one vector per step, but gets maps of {size}; put spatial_pool before it$"
    with pytest.raises(ValueError, match=sentence):
        shape.require_vectors()


# ------------------------------------------------------------------------------ pack, unpack


def test_pack_and_unpack_are_views_where_all_steps_are_real():
    given = features()
    packed = pack(given)
    assert packed.shape == (12, 5, 2, 2)
    assert packed.data_ptr() == given.x.data_ptr()
    back = unpack(packed, given)
    assert back.x.data_ptr() == given.x.data_ptr()
    assert torch.equal(back.x, given.x)


def test_pack_gives_the_real_steps_in_order():
    given = features(real=(2, 4, 1))
    packed = pack(given)
    expected = torch.cat([given.x[0, :2], given.x[1], given.x[2, :1]])
    assert torch.equal(packed, expected)


@pytest.mark.parametrize("real", [(4, 4, 4), (2, 4, 1), (0, 3, 4), (0, 0, 0)])
def test_round_trip_has_zeros_at_padding(real):
    given = features(real=real, penalty=torch.tensor(2.0))
    back = unpack(2 * pack(given), given)
    assert torch.equal(back.x, 2 * given.x.masked_fill(~given.mask[..., None, None, None], 0))
    assert back.penalty is given.penalty
    assert torch.equal(back.mask, given.mask)


def test_unpack_takes_results_of_another_shape_and_type():
    given = features(real=(2, 4, 1))
    back = unpack(torch.ones(7, 9, 1, 1, dtype=torch.bfloat16), given)
    assert back.x.shape == (3, 4, 9, 1, 1)
    assert back.x.dtype == torch.bfloat16
    assert torch.equal(back.x[..., 0, 0, 0] == 1, given.mask)


def test_content_of_padding_reaches_neither_values_nor_gradients():
    given = features(real=(2, 4, 1))
    given.x[~given.mask] = torch.nan
    x = given.x.clone().requires_grad_()
    back = unpack(pack(given._replace(x=x)).square(), given)
    assert back.x.isfinite().all()
    back.x.sum().backward()
    assert (x.grad[~given.mask] == 0).all()
    torch.testing.assert_close(x.grad[given.mask], 2 * given.x[given.mask])


# ------------------------------------------------------------------------------------- merge


def test_merge_sums_what_is_to_be_summed():
    rgb = features(penalty=torch.tensor(1.0), log_prob=torch.ones(3, 4))
    flow = features(penalty=torch.tensor(2.5), log_prob=torch.full((3, 4), 0.5))
    pose = features()
    merged = Features.merge({"rgb": rgb, "pose": pose, "flow": flow})
    assert merged.x is rgb.x
    assert merged.mask is rgb.mask
    assert merged.penalty.item() == 3.5
    assert torch.equal(merged.log_prob, torch.full((3, 4), 1.5))
    assert merged.extra is None


def test_merge_sums_log_probs_where_a_stream_has_one_step():
    many = features(log_prob=torch.arange(12.0).view(3, 4))
    one = features(steps=1, real=(1, 1, 1), log_prob=torch.tensor([[10.0], [20.0], [30.0]]))
    expected = many.log_prob + one.log_prob
    for inputs in ({"a": many, "b": one}, {"b": one, "a": many}):
        assert torch.equal(Features.merge(inputs).log_prob, expected)


def test_merge_leaves_out_what_no_stream_has():
    merged = Features.merge({"rgb": features(), "flow": features()})
    assert merged[2:] == (None,) * 5


def test_merge_prefixes_extra_and_takes_the_first_attention_and_boxes():
    boxes, attention = torch.rand(3, 4, 1, 4), torch.rand(3, 4, 1, 2, 2)
    rgb = features(extra={"gate": torch.tensor(1.0)})
    flow = features(extra={"gate": torch.tensor(2.0), "rgb/x": torch.ones(2)}, boxes=boxes)
    pose = features(attention=attention, boxes=boxes + 1)
    merged = Features.merge({"rgb": rgb, "flow": flow, "pose": pose})
    assert {k: v.sum().item() for k, v in merged.extra.items()} == {
        "rgb/gate": 1,
        "flow/gate": 2,
        "flow/rgb/x": 2,
    }
    assert merged.attention is attention
    assert merged.boxes is boxes
    assert rgb.extra.keys() == {"gate"}  # what came is as it was


def test_merge_lets_gradients_of_penalties_through():
    weights = [torch.tensor(w, requires_grad=True) for w in (2.0, 3.0)]
    inputs = {str(i): features(penalty=w.square()) for i, w in enumerate(weights)}
    Features.merge(inputs).penalty.backward()
    assert [w.grad.item() for w in weights] == [4, 6]


# ------------------------------------------------------------------------------------ pytree


def test_features_are_a_pytree():
    given = features(
        penalty=torch.tensor(1.0), extra={"a": torch.ones(2), "b": torch.ones(())}, boxes=None
    )
    mapped = pytree.tree_map(lambda x: x + 1 if isinstance(x, Tensor) and x.ndim < 2 else x, given)
    assert type(mapped) is Features
    assert mapped.x is given.x
    assert mapped.boxes is None
    assert mapped.penalty.item() == 2
    assert mapped.extra["a"].tolist() == [2, 2]
    leaves, spec = pytree.tree_flatten(given)
    assert sum(isinstance(leaf, Tensor) for leaf in leaves) == 5
    again = pytree.tree_unflatten(leaves, pytree.treespec_loads(pytree.treespec_dumps(spec)))
    assert type(again) is Features
    assert again.extra.keys() == {"a", "b"}


def test_features_survive_saving_of_an_exported_program():
    class Double(torch.nn.Module):
        def forward(self, given: Features) -> Features:
            return given._replace(x=2 * given.x)

    given = features()
    file = io.BytesIO()
    torch.export.save(torch.export.export(Double(), (given,)), file)
    file.seek(0)
    found = torch.export.load(file).module()(given)
    assert type(found) is Features
    assert torch.equal(found.x, 2 * given.x)


# ---------------------------------------------------------------------------------- the rest


def test_read_errors_survive_pickling():
    error = VideoReadError(Path("/d/a.mp4"), "pyav", "the file is empty")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is VideoReadError
    assert (again.path, again.reader, again.reason) == ("/d/a.mp4", "pyav", "the file is empty")
    assert str(again) == str(error) == "/d/a.mp4 (pyav): the file is empty"


def test_make_builds_anew_each_time():
    make = Make(lambda *supplied: [*supplied])
    assert make(1, 2) == [1, 2]
    assert make() is not make()
