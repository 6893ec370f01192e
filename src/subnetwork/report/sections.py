"""The page's sections: every function turns records into pictures, each with its captions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from subnetwork.figures import deal as deals
from subnetwork.figures import experiments, lab, network, training
from subnetwork.figures.courses import Course
from subnetwork.figures.deal import Dealt
from subnetwork.record import Record
from subnetwork.report import words
from subnetwork.report.inline import inline


@dataclass(frozen=True)
class Picture:
    """A figure with the words around it, and the names of the records that it was drawn from."""

    svg: Markup
    title: str
    caption: str
    records: tuple[str, ...]


@dataclass(frozen=True)
class Cut:
    """The deal section: the four steps, the network's two pictures, and what they leave out."""

    steps: tuple[Picture, ...] = ()
    networks: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()


def accuracy(courses: Sequence[Course]) -> list[Picture]:
    """Accuracy against local steps, and against payload."""
    drawn = [course for course in courses if course.final_accuracy is not None]
    if not drawn:
        return []
    names = tuple(course.name for course in drawn)
    who = words.joined([course.label for course in drawn])
    by_steps = "Test accuracy of the merged model at equal work: each worker's local steps so far."
    by_payload = (
        "The same accuracies at equal communication. A dotted line drops from the end of each curve"
        " to its name, at the payload until then."
    )
    return [
        _picture(
            training.accuracy_by_steps(drawn),
            ("steps", "Accuracy against local steps", by_steps),
            names,
            f"Test accuracy of {who} against local steps of each worker",
        ),
        _picture(
            training.accuracy_by_payload(drawn),
            ("payload", "Accuracy against payload", by_payload),
            names,
            f"Test accuracy of {who} against payload bytes, logarithmic",
        ),
    ]


def theorems(records: Sequence[Record]) -> list[Picture]:
    """A picture a lab record."""
    return [
        _picture(
            experiments.experiment(record),
            (f"lab{place}", _theorem_title(record), _caption(record)),
            (record.name,),
            f"{_theorem_title(record)}: {_ALT[experiments.kind(record)]}",
        )
        for place, record in enumerate(records)
        if record.rows
    ]


def cut(record: Record | None) -> Cut:
    """The deck's pictures, from the deal of the first two rounds."""
    rows = [] if record is None else deals.dealt(record)
    if record is None or not rows:
        return Cut()
    first = [row for row in rows if row.axis == rows[0].axis]
    steps = _steps(first, record.name)
    round_0 = [row for row in rows if row.k == rows[0].k]
    layers = [int(size) for size in record.header["config"].get("layers") or ()]
    if len(layers) < 2:
        return Cut(steps, (), (_units_note(first[0]),))
    return Cut(steps, _networks(round_0, layers, record.name), (_units_note(first[0]),))


def _picture(
    figure: Figure, text: tuple[str, str, str], records: tuple[str, ...], alt: str
) -> Picture:
    key, title, caption = text
    return Picture(inline(figure, key, alt), title, caption, records)


def _theorem_title(record: Record) -> str:
    equation = record.header["config"].get("equation", "")
    return f"{record.name.replace('_', ' ').capitalize()} {equation}".strip()


_ALT = {
    "theorem": "measured, exact expectation and bound against the horizon",
    "curves": "a curve for every method or step size",
}


def _caption(record: Record) -> str:
    if experiments.kind(record) == "theorem":
        return _theorem_caption(record)
    note = str(record.header["config"].get("note", ""))
    text = ". ".join(filter(None, (_constants(record), note)))
    return f"{text}." if text else ""


def _constants(record: Record) -> str:
    """The problem, n, d, the step size and the number of seeds, as far as the record says them."""
    config = record.header["config"]
    names = {
        "n_workers": "n",
        "dim": "d",
        "step_size": "\N{GREEK SMALL LETTER GAMMA}",
        "n_seeds": "seeds",
    }
    constants = [words.equal(s, config[key]) for key, s in names.items() if key in config]
    return ", ".join([str(config.get("problem", "")), *constants]).strip(", ")


def _theorem_caption(record: Record) -> str:
    """The problem, its constants, and the three values at the largest horizon."""
    last, problem = record.rows[-1], _constants(record)
    values = [
        f"{key}\N{NO-BREAK SPACE}{words.digits(last.get(key))}"
        for key in ("measured", "exact", "bound")
        if last.get(key) is not None
    ]
    silence = (
        " The theorem is silent here: its assumptions do not hold, so there is no bound."
        if lab.is_silent(record)
        else ""
    )
    at = words.equal("K", last.get("k"))
    return f"{problem}. At {at}: {words.joined(values)}.{silence}".lstrip(". ")


def _steps(rounds: Sequence[Dealt], name: str) -> tuple[Picture, ...]:
    """Sample and compute, for every round that is recorded."""
    pictures = []
    for place, row in enumerate(rounds[:2]):
        again, x = place > 0, f"x{'⁰¹²'[place]}"
        sampled = (
            f"Cut the same units anew. The strip under the server's cells: who trained them in "
            f"round {rounds[0].k}."
            if again
            else f"The server cuts {x} into submodels wᵢ = Cᵢ {x} and sends worker i its own "
            "(Algorithm 1, line 3)."
        )
        computed = (
            f"Local steps on the new submodels; the merge is x{'⁰¹²'[place + 1]}."
            if again
            else "Every worker takes its local steps alone and sends zᵢ back; the server merges "
            f"them into x{'⁰¹²'[place + 1]} (lines 4 to 9). A dot: the value is new."
        )
        titles = ("Sample again", "Compute again") if again else ("Sample", "Compute")
        before = rounds[0] if again else None
        for step, (figure, title, caption) in enumerate(
            (
                (deals.sample(row, before), titles[0], sampled),
                (deals.compute(row), titles[1], computed),
            ),
            start=2 * place + 1,
        ):
            alt = f"Step {step}, {title.lower()}: the server and {len(row.hands)} workers"
            text = (f"deal{step}", f"{step}. {title}", caption)
            pictures.append(_picture(figure, text, (name,), alt))
    return tuple(pictures)


def _networks(rows: Sequence[Dealt], layers: Sequence[int], name: str) -> tuple[Picture, ...]:
    shown = sum(len(network.chosen(row)) for row in rows)
    every = sum(row.size for row in rows)
    extent = (
        "All hidden units are drawn"
        if shown == every
        else f"A sample is drawn: {shown} of {every} hidden units, the first few of every hand"
    )
    whole = (
        f"The network {_setting(layers)} as round {rows[0].k} cuts it. A hidden neuron "
        f"goes to one worker with its incoming and outgoing edges. {extent}; inputs and outputs, "
        "which everyone holds, are a few for all."
    )
    apart = (
        "What each worker trains: a smaller network that is complete in itself, and exchanges "
        "nothing with the others until the merge."
    )
    n = len(rows[0].hands)
    return (
        _picture(
            network.network(rows, layers),
            ("network", f"One network, cut across {n} workers", whole),
            (name,),
            f"A neural network whose hidden neurons are coloured by {n} workers",
        ),
        _picture(
            network.subnetworks(rows, layers),
            ("subnetworks", f"{n} independent subnetworks", apart),
            (name,),
            f"{n} separate smaller neural networks, one a worker",
        ),
    )


def _units_note(row: Dealt) -> str:
    units = len(row.shown)
    cells = f"all {units}" if units == row.size else f"the first {units} of {row.size}"
    workers = min(len(row.hands), deals.MOST_WORKERS)
    who = (
        "" if workers == len(row.hands) else f" and the first {workers} of {len(row.hands)} workers"
    )
    return f"A cell is a unit of {row.axis}; {cells} units{who} are drawn."


def settings(records: Sequence[Record]) -> dict[str, str]:
    """What all training records have in common, in words: "workers" -> "4"."""
    configs: list[Mapping[str, Any]] = [record.header["config"] for record in records]
    names = {
        "data": "data",
        "hidden": "hidden units",
        "workers": "workers",
        "local_steps": "local steps a round",
        "batch_size": "batch of a worker",
        "step_size": "step size",
        "seed": "seed",
    }
    return {
        word: _setting(configs[0][key])
        for key, word in names.items()
        if configs and all(key in c and c[key] == configs[0][key] for c in configs)
    }


def _setting(value: object) -> str:
    if isinstance(value, list | tuple):
        return words.DASH.join(map(str, value))
    return str(value)
