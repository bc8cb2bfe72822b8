import itertools

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
