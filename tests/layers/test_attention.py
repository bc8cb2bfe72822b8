import pytest
import torch

from actionkit.contracts import Shape
from actionkit.layers.attention import AdditiveAttention, over_places, require_places


def layer(queries, kernel=1):
    torch.manual_seed(0)
    return AdditiveAttention(3, 5, queries, kernel).double()


def noise(*size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(1)).double()


def matrix(convolution):
    """Weights of a 1x1 convolution [out, in]."""
    return convolution.weight[:, :, 0, 0]


@pytest.mark.parametrize("queries", [[], [4], [4, 2]])
def test_a_score_is_additive_in_what_is_there_and_what_is_asked_for(queries):
    attention, x = layer(queries), noise(2, 3, 4, 6)
    asked = [noise(2, n, 4, 6) for n in queries]
    got = attention(attention.content(x), *asked)
    assert got.shape == (2, 1, 4, 6)
    for b, row, column in [(0, 0, 0), (1, 3, 5), (1, 2, 1)]:
        inner = matrix(attention.content) @ x[b, :, row, column] + attention.content.bias
        for convolution, query in zip(attention.queries, asked, strict=True):
            inner = inner + matrix(convolution) @ query[b, :, row, column]
        wanted = matrix(attention.score)[0] @ inner.tanh() + attention.score.bias[0]
        torch.testing.assert_close(got[b, 0, row, column], wanted, rtol=0, atol=1e-12)


def test_a_vector_asks_at_every_place():
    attention, known = layer([4]), noise(2, 5, 4, 6)
    vector = noise(2, 4, 1, 1)
    got, wanted = attention(known, vector), attention(known, vector.expand(-1, -1, 4, 6))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_only_what_is_there_has_a_bias_and_the_score_one():
    attention = layer([4, 2])
    assert attention.content.bias.shape == (5,)
    assert attention.score.bias.shape == (1,)
    assert [query.bias for query in attention.queries] == [None, None]
    assert sum(p.numel() for p in attention.parameters()) == 5 * (3 + 4 + 2) + 5 + 5 + 1


def test_a_kernel_sees_neighbours_and_keeps_the_size():
    changes = []
    for kernel in (1, 3):
        attention, x = layer([], kernel), noise(1, 3, 7, 7)
        other = x.clone()
        other[:, :, 3, 3] += 1
        plain, changed = (attention(attention.content(seen)) for seen in (x, other))
        assert plain.shape == (1, 1, 7, 7)
        changes.append((plain != changed)[0, 0])
    assert changes[0].nonzero().tolist() == [[3, 3]]
    # content and score are 3x3 each, so that a place reaches two to every side
    assert changes[1].nonzero().tolist() == [[i, j] for i in range(1, 6) for j in range(1, 6)]


def test_the_number_of_queries_is_not_guessed():
    attention = layer([4])
    with pytest.raises(ValueError, match="zip"):
        attention(noise(2, 5, 4, 6))


def test_weights_over_places_are_a_softmax_of_each_map():
    scores = noise(3, 1, 4, 6)
    weights = over_places(scores)
    for map_, weighed in zip(scores, weights, strict=True):
        wanted = map_.exp() / map_.exp().sum()
        torch.testing.assert_close(weighed, wanted, rtol=0, atol=1e-12)
    moved = over_places(scores + 1e4)
    torch.testing.assert_close(moved, weights, rtol=0, atol=1e-10)


def test_weights_over_places_have_float32_at_least():
    scores = noise(3, 1, 40, 60)
    for dtype, wanted in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        weights = over_places(scores.to(dtype))
        assert weights.dtype == wanted
        assert (weights.sum((1, 2, 3)) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("width", [0, -3])
def test_refuses_a_width_of_nothing(width):
    with pytest.raises(ValueError, match=f"1 or more channels for its attention, but got {width}"):
        AdditiveAttention(3, width, [4])


def test_refuses_even_kernels():
    with pytest.raises(ValueError, match=r"takes odd kernels.* but got 2; set it to 3"):
        AdditiveAttention(3, 5, [4], 2)


def test_one_place_is_no_choice():
    with pytest.raises(ValueError, match="among the places of a map, but gets maps of 1x1"):
        require_places(Shape(5, 3, 1, 1))
    for height, width in ((1, 2), (2, 1), (None, None)):
        require_places(Shape(5, 3, height, width))
