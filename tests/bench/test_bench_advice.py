"""What binds, in words, for machines that have a GPU and for those that have none."""

import pytest

from actionkit.bench.advice import AROUND, COMPUTE, DEVICE, TRANSFER, WAIT, Measured, advise
from actionkit.bench.clock import Spent
from actionkit.bench.parts import Share, Worker


def worker(cpu=10.0, first=(1.0, 1.0), types=None, **parts):
    parts = parts or {"read": 0.72, "crop_resize": 0.28}
    shares = [Share(name, cpu * share, cpu * share, share) for name, share in parts.items()]
    types = types or {"rgb": "uint8"}
    return Worker(shares, Share("first look", *first, 0), 2_000_000, types)


def measured(device="cuda", *, wait=0.0, transfer=0.0, normalize=0.0, compute=0.0, around=0.0, **o):
    parts = {
        WAIT: wait, TRANSFER: transfer, DEVICE + "normalize": normalize,
        COMPUTE: compute, AROUND: around,
    }  # fmt: skip
    options = {"precision": "32", "batch": 16, "workers": 2, "cores": 10, "worker": worker()}
    return Measured(
        device=device,
        name=device,
        step=Spent(sum(parts.values()), sum(parts.values())),
        parts={name: Spent(seconds, seconds) for name, seconds in parts.items()},
        **{**options, **o},
    )


def words(m):
    return "\n".join(advise(m))


def test_a_gpu_that_waits_is_told_of_more_workers_and_of_what_they_do():
    text = words(measured(wait=0.061, compute=0.039))
    assert text.startswith("the loader binds: each step waits 61% of its time, and decoding is 72%")
    # 16 clips of 10 ms in 39 ms of a step: 4.1 workers
    assert "raise data.workers to 5 (now 2, 8 cores are free; 5 would keep up)" in text
    assert "short GOP" in text
    assert "crop" not in text  # 28 % is not worth a word


def test_where_cores_are_few_the_work_must_become_less():
    text = words(measured(wait=0.061, compute=0.039, cores=2))
    assert "5 workers would keep up, but there are 2 cores" in text
    assert "raise data.workers" not in text
    text = words(measured(wait=0.061, compute=0.039, cores=3))
    assert "raise data.workers to 3 (now 2, 1 core is free; 5 would keep up)" in text


def test_without_workers_reading_and_computing_take_turns():
    text = words(measured(wait=0.061, compute=0.039, workers=0))
    assert "set data.workers=5 (now 0, so reading and computing take turns)" in text


def test_flow_in_the_workers_can_go_to_the_device_only_where_there_is_one():
    slow = worker(dis_flow=0.7, read=0.3)
    text = words(measured(wait=0.5, compute=0.5, worker=slow))
    assert "dis_flow: compute flow once and store it" in text
    assert "tvl1_flow" in text
    text = words(measured("cpu", wait=0.05, compute=0.05, cores=2, worker=slow))
    assert "dis_flow: compute flow once and store it" in text
    assert "tvl1_flow" not in text


def test_a_gpu_that_does_not_wait_is_bound_by_the_network_as_it_should():
    text = words(measured(wait=0.002, compute=0.098, workers=8))
    assert text.startswith("the network binds, as it should: 98% of a step")
    assert "bf16-mixed" in text
    assert "2 of the 8 workers would keep up" in text
    assert "bf16" not in words(measured(compute=0.1, precision="bf16-mixed"))


def test_on_a_cpu_the_network_s_and_the_loader_s_processor_time_are_compared():
    m = measured("cpu", wait=0.0, compute=0.84, workers=2, cores=2)  # loading: 16 clips of 10 ms
    assert m.loading == pytest.approx(0.16)
    text = words(m)
    assert text.startswith("the network binds: there is no GPU in use, so network and loader share")
    assert "84% is the network's and 16% loading (each step waits 0% of its time)" in text
    assert "more workers do not help" in text
    assert "bf16" not in text
    assert "decoding" not in text


def test_on_a_cpu_loading_binds_where_it_is_most_of_the_work_though_nothing_waits():
    text = words(measured("cpu", wait=0.0, compute=0.1, workers=2, cores=2))
    assert text.startswith("loading binds: there is no GPU in use")
    assert "short GOP" in text
    assert "workers" not in text.partition("\n")[2]


def test_on_a_cpu_without_workers_one_is_advised():
    assert "set data.workers=1" in words(measured("cpu", compute=0.9, workers=0, cores=2))
    assert "set data.workers=1" not in words(measured("cpu", compute=0.9, workers=0, cores=1))


def test_the_way_to_the_device_binds():
    text = words(measured(transfer=0.6, compute=0.4))
    assert text.startswith("transfer binds: 60% of a step is the way of 32 MB to the device")


def test_transforms_on_the_device_bind():
    text = words(measured(normalize=0.6, compute=0.4))
    assert text.startswith("transforms on the device bind: 60% of a step, most of it normalize")
    assert "run it in the workers (per_sample): 8 of 10 cores are free" in text
    assert "in the workers" not in words(measured(normalize=0.6, compute=0.4, workers=10))


def test_steps_so_small_that_what_stands_around_them_binds():
    assert "a larger data.batch has fewer of them" in words(measured(around=0.6, compute=0.4))


def test_floats_from_the_workers_are_told():
    text = words(measured(compute=1.0, worker=worker(types={"rgb": "float32", "flow": "uint8"})))
    assert "rgb leaves the workers as float32" in text
    assert "flow leaves" not in text


def test_a_slow_disk_is_told():
    text = words(measured(compute=1.0, worker=worker(first=(1.0, 60.0))))
    assert "the first look at a file waits 59 ms for it" in text
    assert "disk" not in words(measured(compute=1.0, worker=worker(first=(60.0, 61.0))))


def test_json_has_every_part_and_the_words():
    m = measured(wait=0.25, compute=0.75)
    found = m.as_json()
    assert [part["part"] for part in found["parts"]] == list(m.parts)
    assert sum(part["share"] for part in found["parts"]) == pytest.approx(1)
    assert found["binds"] == "loader"
    assert found["verdict"] == list(advise(m))
    assert found["worker"]["parts"][0]["name"] == "read"
