"""Methods of flow: those that are registered, with errors that mean something."""

from actionkit.bench import flow as bench
from actionkit.bench.pictures import warped
from actionkit.registry import UnknownComponentError, find


def test_presets_are_compared_by_time_and_error():
    tested, notes = bench.methods()
    assert {"dis_flow ultrafast", "dis_flow fast", "dis_flow medium"} <= tested.keys()
    presets = {name: method for name, method in tested.items() if name.startswith("dis")}
    comparison = bench._compare(warped(224, 224, most=6), presets, notes, 1, None)
    assert [row.name for row in comparison.rows] == list(presets)
    errors = [row.facts["error px"] for row in comparison.rows]
    assert errors[-1] < errors[0]  # medium is the better one
    assert "at most 6 pixels" in comparison.title


def test_what_is_not_registered_is_left_out_by_name(monkeypatch):
    def without(groups, use):
        if use == "tvl1_flow":
            raise UnknownComponentError("there is no transform 'tvl1_flow'")
        return find(groups, use)

    monkeypatch.setattr(bench.registry, "find", without)
    tested, notes = bench.methods()
    assert len(tested) == 3
    assert notes == ["left out: tvl1_flow: there is no transform 'tvl1_flow'"]


def test_the_error_is_small_where_the_flow_is_right():
    tested, _ = bench.methods()
    pair = warped(96, 96, most=3)
    right = bench.endpoint_error(tested["dis_flow medium"], pair)
    assert right < 0.5
    turned = pair._replace(flow=-pair.flow)
    assert bench.endpoint_error(tested["dis_flow medium"], turned) > 4 * right
