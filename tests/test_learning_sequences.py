"""What the recipes that model time reach where only the order of events tells the classes apart."""

import csv

import pytest
from test_learning_order import cache, top1  # noqa: F401  a fixture for all tests here

pytestmark = pytest.mark.slow
CHANCE = pytest.approx(1 / 6, abs=0.1)


@pytest.mark.parametrize(
    "recipe",
    [
        "baccouche",
        "bilstm",
        "convlstm",
        "encoder",
        "gru",
        "gru_rcn",
        "hard_attention",
        "non_local",
        "soft_attention",
        "stn",
        "tcn",
        "tsm",
    ],
)
def test_knows_the_order_of_events(tmp_path, recipe):
    assert top1(tmp_path, recipe) >= 0.9


@pytest.mark.parametrize("pool", ["mean", "max", "min", "maxmin"])
def test_a_pool_in_the_place_of_the_encoder_is_at_chance(tmp_path, pool):
    in_its_place = f"model.streams.rgb.aggregate.2={{use: {pool}}}"
    assert top1(tmp_path, "encoder", in_its_place) == CHANCE


def test_an_encoder_without_positions_is_at_chance(tmp_path):
    assert top1(tmp_path, "encoder", "model.streams.rgb.aggregate.2.positions=none") == CHANCE


def test_skips_steps_and_still_knows_the_order(tmp_path):
    assert top1(tmp_path, "skip") >= 0.9
    with (tmp_path / "run" / "metrics.csv").open() as file:
        used = [row["val/updates"] for row in csv.DictReader(file) if row["val/updates"]]
    assert float(used[-1]) <= 0.7


def test_without_the_shift_tsm_is_at_chance(tmp_path):
    plain = "model.streams.rgb.backbone={use: timm, arch: test_resnet}"
    assert top1(tmp_path, "tsm", plain) == CHANCE


@pytest.mark.parametrize("recipe", ["snippets_conv", "snippets_late"])
def test_a_largest_value_of_all_frames_is_at_chance(tmp_path, recipe):
    assert top1(tmp_path, recipe) == CHANCE
