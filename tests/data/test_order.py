import itertools
from collections import Counter

import pytest
from torch.utils.data import DataLoader

from actionkit.data.order import Ask, InTurn, Order
from actionkit.data.seeds import generator, mix
from actionkit.errors import RunError

WORLDS = [(1, 1), (2, 1), (2, 3), (4, 2), (3, 5)]  # world, batch


def indices(order):
    return [[ask.index for ask in batch] for batch in order]


def ranks(items, batch, world, epoch=0, seed=0):
    orders = [Order(items, batch, seed=seed, rank=r, world=world) for r in range(world)]
    for order in orders:
        order.set_epoch(epoch)
    return orders


def test_permutation_is_a_function_of_seed_and_epoch():
    def epoch_of(seed, epoch, before=()):
        order = Order(20, 4, seed=seed)
        for earlier in before:
            order.set_epoch(earlier)
            list(order)
        order.set_epoch(epoch)
        return list(order)

    assert epoch_of(1, 3) == epoch_of(1, 3, before=[0, 1, 2])
    assert epoch_of(1, 3) != epoch_of(1, 4)
    assert epoch_of(1, 3) != epoch_of(2, 3)
    expected = generator(1, 3).permutation(20).tolist()
    assert [ask.index for batch in epoch_of(1, 3) for ask in batch] == expected


def test_seed_of_a_clip_does_not_depend_on_its_place():
    narrow, wide = Order(12, 3, seed=5), Order(12, 4, seed=5, rank=1, world=2)
    narrow.set_epoch(2)
    wide.set_epoch(2)
    seeds = {ask.index: ask.seed for batch in narrow for ask in batch}
    assert all(seeds[ask.index] == ask.seed for batch in wide for ask in batch)
    assert seeds == {index: mix(5, 2, index, 0) for index in range(12)}


@pytest.mark.parametrize("items", [5, 6, 7, 12, 13, 29, 30])
@pytest.mark.parametrize(("world", "batch"), WORLDS)
def test_ranks_share_an_epoch_without_overlap(items, world, batch):
    orders = ranks(items, batch, world)
    shares = [list(itertools.chain(*indices(order))) for order in orders]
    seen = list(itertools.chain(*shares))
    assert len(seen) == len(set(seen))
    assert set(seen) <= set(range(items))
    left_out = items - len(seen)
    assert left_out < world * batch  # less than one step of all ranks
    assert len({len(order) for order in orders}) == 1  # else one rank waits for ever
    for order in orders:
        assert len(list(order)) == len(order)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_item_comes_where_batches_are_whole(world):
    shares = [indices(order) for order in ranks(12, 12 // world // 2, world)]
    assert sorted(itertools.chain(*itertools.chain(*shares))) == list(range(12))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_step_of_all_ranks_holds_the_clips_of_one_process(world):
    alone = [set(batch) for batch in indices(Order(16, 4, seed=0))]
    shares = [indices(order) for order in ranks(16, 4 // world, world)]
    assert [set(itertools.chain(*step)) for step in zip(*shares, strict=True)] == alone


def test_last_smaller_batch_is_left_out_unless_it_is_the_only_one():
    assert [len(batch) for batch in Order(11, 4, seed=0)] == [4, 4]
    assert [len(batch) for batch in Order(3, 4, seed=0)] == [3]
    assert [len(batch) for batch in Order(7, 4, seed=0, rank=1, world=2)] == [3]


def test_refuses_fewer_clips_than_devices():
    with pytest.raises(RunError, match="2 clips to train are too few for 3 devices"):
        Order(2, 1, seed=0, rank=2, world=3)


def test_set_epoch_stands_where_lightning_looks():
    order = Order(8, 2, seed=0)
    DataLoader(range(8), batch_sampler=order).batch_sampler.sampler.set_epoch(5)
    assert order.epoch == 5


@pytest.mark.parametrize("parts", [[], [1], [1] * 5, [3] * 8, [2, 1, 4, 1]])
@pytest.mark.parametrize(("world", "batch"), WORLDS)
def test_evaluation_asks_every_part_of_every_item_once(parts, world, batch):
    orders = [InTurn(parts, batch, rank=r, world=world) for r in range(world)]
    asked = [ask for order in orders for chosen in order for ask in chosen]
    assert sorted(asked) == [Ask(i, 0, part) for i, n in enumerate(parts) for part in range(n)]
    for order in orders:
        sizes = [len(chosen) for chosen in order]
        assert len(sizes) == len(order)
        assert all(size == batch for size in sizes[:-1])
        assert all(0 < size <= batch for size in sizes)
    assert all(list(order) == list(order) for order in orders)


WEIGHTS = [1.0] * 90 + [9.0] * 10


def weighted(epoch=0, **options):
    order = Order(100, 10, seed=3, weights=WEIGHTS, **options)
    order.set_epoch(epoch)
    return order


def test_items_come_by_their_weights():
    counts = Counter(i for epoch in range(100) for b in indices(weighted(epoch)) for i in b)
    heavy = sum(counts[i] for i in range(90, 100)) / 10_000
    assert heavy == pytest.approx(0.5, abs=0.02)  # 4 standard deviations
    assert set(counts) == set(range(100))


def test_an_item_that_comes_again_has_other_draws():
    asks = [ask for batch in weighted(2) for ask in batch]
    came = Counter()
    for ask in asks:
        assert ask.seed == mix(3, 2, ask.index, came[ask.index])
        came[ask.index] += 1
    assert max(came.values()) > 1
    assert len({ask.seed for ask in asks}) == len(asks) == 100


def test_two_ranks_draw_together_what_one_draws():
    alone = [set(batch) for batch in weighted(1)]
    two = [list(Order(100, 5, seed=3, weights=WEIGHTS, rank=r, world=2)) for r in range(2)]
    for rank, order in enumerate(two):
        again = weighted(1, rank=rank, world=2)
        again.batch = 5
        two[rank] = list(again)
        assert two[rank] != order  # of another epoch
    assert [set(a) | set(b) for a, b in zip(*two, strict=True)] == alone


def test_a_resumed_epoch_goes_on_where_it_was():
    assert list(weighted(1, done=lambda: 7)) == list(weighted(1))[7:]


def test_an_epoch_can_be_bounded():
    order = Order(20, 4, seed=0, most=2)
    assert len(order) == 2
    assert list(order) == list(Order(20, 4, seed=0))[:2]
    assert len(Order(20, 4, seed=0, most=9)) == 5
