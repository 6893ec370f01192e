from collections import Counter
from dataclasses import replace

import matplotlib
import numpy as np
import pytest

import made_up_records as made_up
from subnetwork.figures import deal, lab, network, style, training
from subnetwork.figures.courses import courses
from subnetwork.record import read, read_folder, writing
from subnetwork.report.lines import lead
from subnetwork.report.numbers import results


@pytest.fixture
def folder(tmp_path):
    return made_up.demo(tmp_path)


def curves(figure):
    """The solid curves of a plot by colour, without dots, drops and leaders."""
    (axes,) = figure.axes
    return {
        line.get_color(): line.get_xydata()
        for line in axes.lines
        if line.get_linestyle() == "-" and line.get_transform() == axes.transData
    }


def test_a_course_adds_up_what_a_record_says_round_by_round(folder):
    record = read(folder / "ist.jsonl")
    (ist,) = courses([record])
    assert ist.down == tuple(np.cumsum([sum(row["bytes_down"]) for row in record.rows]))
    assert ist.payload[-1] == sum(sum(r["bytes_down"]) + sum(r["bytes_up"]) for r in record.rows)
    config = record.header["config"] | {"where": "ranks"}  # what one sent another received
    (direct,) = courses([replace(record, header=record.header | {"config": config})])
    assert direct.payload == direct.up
    assert ist.final_accuracy == record.rows[-1]["accuracy"]
    assert ist.complete


def test_rounds_that_were_not_evaluated_leave_no_point_and_the_last_value_counts(tmp_path):
    config = {"method": "ist"}
    with writing(tmp_path / "ist.jsonl", kind="train", name="ist", config=config) as write:
        for k, value in enumerate((None, 0.5, float("nan"), 0.75, None)):
            write({"k": k, "steps": k + 1, "accuracy": value, "bytes_down": [1], "bytes_up": [1]})
    (ist,) = courses([read(tmp_path / "ist.jsonl")])
    assert (ist.final_accuracy, ist.tested_steps) == (0.75, 4)
    (result,) = results([ist])
    (line, *_) = lead([result], [])
    assert line.text == "Test accuracy at the end: IST 75.0\u00a0% (after 4 steps)."
    (line, *_) = lead([replace(result, tested=result.steps)], [])
    assert line.text == "Test accuracy at the end: IST 75.0\u00a0%."
    points = curves(training.accuracy_by_steps([ist]))[ist.color]
    np.testing.assert_array_equal(points, [(2, 50), (4, 75)])


def test_curves_end_at_the_whole_payload_and_a_method_keeps_its_colour(folder):
    runs = courses(read_folder(folder).values())
    assert [run.name for run in runs] == ["ist", "local_sgd", "diloco", "synchronous_sgd"]
    by_steps = curves(training.accuracy_by_steps(runs))
    by_payload = curves(training.accuracy_by_payload(runs))
    for run in runs:
        last = 100 * run.final_accuracy
        np.testing.assert_allclose(by_steps[run.color][-1], (run.steps[-1], last))
        np.testing.assert_allclose(by_payload[run.color][-1], (run.payload[-1], last))


def test_a_method_unknown_here_gets_a_colour_that_no_other_has():
    colors = style.colors(["ist", "resist", "local_sgd", "gist"])
    assert len(set(colors.values())) == 4
    assert colors["ist"] == style.COLORS["ist"][0]


def test_the_lab_figure_shows_all_curves_and_cuts_the_axis_under_the_lowest(folder):
    record = read(folder / "neighbourhood.jsonl")
    figure = lab.theorem(record)
    (axes,) = figure.axes
    drawn = [line for line in axes.lines if line.get_transform() == axes.transData]
    for line, key in zip(drawn, ("measured", "exact", "bound", "tightened"), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), record.column(key))
    lowest = min(record.column("measured") + record.column("exact"))
    assert lowest / 2 < axes.get_ylim()[0] < lowest
    assert not lab.is_silent(record)


def test_a_curve_that_reaches_zero_ends_before_it(tmp_path):
    with writing(tmp_path / "x.jsonl", kind="lab", name="x", config={}) as write:
        for k, value in ((1, 1.0), (2, 0.5), (3, 0.0)):
            write({"k": k, "measured": value, "exact": value, "bound": 1.0})
    (axes,) = lab.theorem(read(tmp_path / "x.jsonl")).axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [1, 0.5, np.nan])


def test_a_bound_that_the_theorem_does_not_give_is_not_drawn(tmp_path):
    made_up.lab(tmp_path, "interpolation", bound=False)
    record = read(tmp_path / "interpolation.jsonl")
    (axes,) = lab.theorem(record).axes
    assert {text.get_text() for text in axes.texts} == {"measured", "exact\nexpectation"}
    assert lab.is_silent(record)


@pytest.mark.parametrize("n_workers", [2, 8])
def test_the_steps_show_every_hand_at_its_worker_and_at_the_server(tmp_path, n_workers):
    made_up.deal(tmp_path, n_workers=n_workers)
    first, second = deal.dealt(read(tmp_path / "deal.jsonl"))
    for figure in (deal.sample(first), deal.compute(first)):
        assert cells(figure) == {
            style.tint(i): 2 * sorted(hand) for i, hand in enumerate(first.hands)
        }
    (trained_before, now) = cells(deal.sample(second, first)), cells(deal.sample(second))
    for i, hand in enumerate(first.hands):
        assert Counter(trained_before[style.tint(i)]) - Counter(now[style.tint(i)]) == Counter(hand)


def cells(figure):
    """The units of the coloured cells, by colour; upper rows first."""
    found = {}
    (axes,) = figure.axes
    for patch in axes.patches:
        color = matplotlib.colors.to_hex(patch.get_facecolor())
        if color in style.TINTS:
            corners = patch.get_path().vertices.reshape(-1, 5, 2)
            width = (deal._RIGHT - deal._LEFT) / 32
            units = [round(float(c[0, 0] - deal._LEFT) // width) for c in corners]
            found.setdefault(color, []).extend(units)
    return found


def test_an_entry_with_several_holders_is_shown_in_the_colours_of_all():
    shared = deal.Dealt(0, "hidden.0", 3, ((0, 1), (1,)))
    assert [shared.holders(unit) for unit in range(3)] == [[0], [0, 1], []]
    assert deal.sample(shared).axes


def test_an_edge_belongs_to_the_worker_of_its_hidden_neuron_and_none_joins_two_workers(tmp_path):
    made_up.deal(tmp_path, n_workers=2, size=6, axes=("hidden.0", "hidden.1"), layers=[4, 6, 6, 3])
    rows = [row for row in deal.dealt(read(tmp_path / "deal.jsonl")) if row.k == 0]
    for figure in (network.network(rows, [4, 6, 6, 3]), network.subnetworks(rows, [4, 6, 6, 3])):
        edges = Counter()
        for patch in figure.axes[0].patches:
            if not patch.get_fill():
                color = matplotlib.colors.to_hex(patch.get_edgecolor())
                edges[color] += len(patch.get_path().vertices) // 2
        # of each worker: 4 x 3 in, 3 x 3 between, 3 x 3 out
        assert edges == {style.line(0): 30, style.line(1): 30}


def test_of_a_large_layer_some_neurons_of_every_worker_are_drawn():
    hands = tuple(tuple(range(64 * i, 64 * i + 64)) for i in range(8))
    shown = network.chosen(deal.Dealt(0, "hidden.0", 512, hands))
    assert Counter(worker for _, worker in shown) == dict.fromkeys(range(8), 2)


def test_the_same_records_give_the_same_svg_whatever_the_users_matplotlibrc_says(folder):
    runs = courses(read_folder(folder).values())
    before = style.to_svg(training.accuracy_by_steps(runs))
    with matplotlib.rc_context({"svg.fonttype": "path", "font.size": 30, "font.family": "serif"}):
        assert style.to_svg(training.accuracy_by_steps(runs)) == before
    assert "<dc:date>" not in before


def test_words_from_a_record_are_no_mathematics_to_matplotlib(tmp_path):
    config = {"equation": "(24)", "left_side": "costs 5 $ \\nothing $ 中"}
    with writing(tmp_path / "x.jsonl", kind="lab", name="x", config=config) as write:
        write({"k": 1, "measured": 1.0, "low": None, "high": None, "exact": 1.0, "bound": None})
    assert "costs 5 $ \\nothing $" in style.to_svg(lab.theorem(read(tmp_path / "x.jsonl")))
