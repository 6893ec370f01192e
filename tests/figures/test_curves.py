"""Figures of many curves: what is drawn is what the record holds, on every axis."""

import numpy as np
import pytest

from subnetwork.figures import style
from subnetwork.figures.curves import AXES, DECADES, axes_of
from subnetwork.figures.experiments import axes, experiment, kind
from subnetwork.record import read, writing
from subnetwork.report import render


def a_record(folder, *, config=None, name="removal", deep=False, bound=False):
    config = {"figure": "curves", "measure": "f - f*", "floor": 0.02, "floor_name": "bias"} | (
        config or {}
    )
    with writing(folder / f"{name}.jsonl", kind="lab", name=name, config=config) as write:
        for curve, rate in (("slow", 0.97), ("fast", 0.3 if deep else 0.9)):
            for k in range(0, 61, 5):
                value = rate**k
                row = {"curve": curve, "k": k, "measured": value, "low": value / 2}
                row |= {"high": 2 * value, "bits_down": 64 * k, "bits_up": 128 * k, "work": k}
                write(row | ({"bound": 3 * value} if bound else {}))
    return read(folder / f"{name}.jsonl")


def solid(figure):
    (axes,) = figure.axes
    return [
        line.get_xydata()
        for line in axes.lines
        if line.get_linestyle() == "-" and line.get_transform() == axes.transData
    ]


@pytest.mark.parametrize(
    ("axis", "times"), [("rounds", 1), ("bits_down", 64), ("bits", 192), ("work", 1)]
)
def test_every_axis_shows_its_columns(tmp_path, axis, times):
    record = a_record(tmp_path)
    assert axes(record) == list(AXES)
    drawn = solid(experiment(record, axis))
    assert len(drawn) == 2
    for line, rate in zip(reversed(drawn), (0.97, 0.9), strict=True):
        ks = np.arange(0, 61, 5)
        np.testing.assert_allclose(line, np.stack([times * ks, rate**ks], axis=1))


def test_a_bound_is_drawn_where_the_record_has_one_and_named(tmp_path):
    color = style.COLORS["bound"][0]
    (plain,) = experiment(a_record(tmp_path)).axes
    assert color not in {line.get_color() for line in plain.lines}
    (bounded,) = experiment(a_record(tmp_path, bound=True, name="b")).axes
    lines = [line for line in bounded.lines if line.get_color() == color]
    dashed = [line for line in lines if line.get_transform() == bounded.transData]
    assert [line.get_linestyle() for line in dashed] == ["--", "--"]
    assert {text.get_text() for text in bounded.texts} == {"slow", "fast", "bias", "bound"}


def test_the_axis_is_cut_at_rounding_and_shows_the_floor(tmp_path):
    (axes_,) = experiment(a_record(tmp_path, deep=True)).axes
    low, high = axes_.get_ylim()
    assert high / low < 10 ** (DECADES + 1)
    (usual,) = experiment(a_record(tmp_path, name="x", config={"floor": 1e-6})).axes
    assert usual.get_ylim()[0] < 1e-6
    with writing(
        tmp_path / "i.jsonl",
        kind="lab",
        name="i",
        config={"figure": "curves"} | {"x": "q", "x_label": "q", "decades": 20},
    ) as write:
        for q, value in ((1, 100.0), (2, 1e-17)):
            write({"curve": "a", "q": q, "measured": value})
    (identities,) = experiment(read(tmp_path / "i.jsonl")).axes
    assert identities.get_ylim()[0] < 1e-17  # a deviation of rounding is in sight where asked for


def test_values_that_differ_by_little_are_drawn_without_logarithm(tmp_path):
    with writing(tmp_path / "f.jsonl", kind="lab", name="f", config={"figure": "curves"}) as write:
        for k in range(10):
            write({"curve": "a", "k": k, "measured": 470 + 20 * 0.5**k})
    (panel,) = experiment(read(tmp_path / "f.jsonl")).axes
    assert panel.get_yscale() == "linear"


def test_a_zero_is_a_gap_and_keeps_its_place_on_the_x_axis(tmp_path):
    config = {"figure": "curves", "x": "q", "x_label": "q"}
    with writing(tmp_path / "q.jsonl", kind="lab", name="q", config=config) as write:
        for q, value in ((1, 1.0), (2, 0.1), (4, 0.0)):
            write({"curve": "a", "q": q, "measured": value})
    record = read(tmp_path / "q.jsonl")
    assert axes_of(record) == ["q"]
    (panel,) = experiment(record).axes
    assert panel.get_xlim() == (1, 4)
    assert all(tick == round(tick) for tick in panel.get_xticks())
    np.testing.assert_array_equal(panel.lines[0].get_ydata(), [1, 0.1, np.nan])


def test_other_records_and_axes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no axis 'time'. It can be drawn against: rounds, bits"):
        experiment(a_record(tmp_path), "time")
    with writing(tmp_path / "t.jsonl", kind="train", name="t", config={}) as write:
        write({"k": 1})
    with pytest.raises(ValueError, match="no rows of an experiment"):
        experiment(read(tmp_path / "t.jsonl"))


def test_a_theorem_is_still_a_theorem_and_the_same_record_gives_the_same_picture(tmp_path):
    with writing(tmp_path / "x.jsonl", kind="lab", name="x", config={}) as write:
        write({"k": 1, "measured": 1.0, "low": 1.0, "high": 1.0, "exact": 1.0, "bound": 2.0})
    record = read(tmp_path / "x.jsonl")
    assert (kind(record), axes(record)) == ("theorem", ["k"])
    with pytest.raises(ValueError, match="Leave the axis out"):
        experiment(record, "bits")
    curves = a_record(tmp_path)
    assert style.to_svg(experiment(curves)) == style.to_svg(experiment(curves))
    assert style.to_png(experiment(curves), dots_per_inch=50)[:4] == b"\x89PNG"


def test_the_page_shows_the_curves_with_their_note(tmp_path):
    a_record(tmp_path, config={"note": "shape recollected, not a quotation", "n_workers": 4})
    page = render(tmp_path)
    assert "shape recollected, not a quotation" in page
    assert "is silent here" not in page
