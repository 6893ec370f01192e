import json
import re
from dataclasses import dataclass
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path

import pytest

import made_up_records as made_up
from subnetwork import report
from subnetwork.figures import style
from subnetwork.record import read, writing
from subnetwork.report import page, words


@pytest.fixture
def folder(tmp_path):
    return made_up.demo(tmp_path)


class Tables(HTMLParser):
    """The page's words: the cells of every table row, and everything that is read."""

    def __init__(self):
        super().__init__()
        self.rows, self.ids, self.tags, self.links = [], [], [], []
        self.text, self.open = "", False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in ("href", "src", "xlink:href")]
        inner = ("a", "b", "i", "span", "code", "small")
        self.open = tag in ("th", "td") or (self.open and tag in inner)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.open = self.open and tag not in ("th", "td")

    def handle_data(self, data):
        self.text += data
        if self.open:
            self.rows[-1][-1] += data


def parsed(folder) -> Tables:
    return tables_of(report.render(folder))


def tables_of(text) -> Tables:
    tables = Tables()
    tables.feed(text)
    return tables


@dataclass(frozen=True)
class Demo:
    """The page of a whole demo: drawn once, for the tests that only read it."""

    folder: Path
    text: str

    @cached_property
    def tables(self) -> Tables:
        return tables_of(self.text)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = made_up.demo(tmp_path_factory.mktemp("demo"))
    return Demo(folder, report.render(folder))


def row(tables, first) -> list[str]:
    return next([c.strip() for c in r] for r in tables.rows if r and r[0].strip() == first)


def test_the_page_needs_nothing_beside_itself(demo):
    text, tables = demo.text, demo.tables
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", text)
    assert not {"script", "link", "img", "iframe", "object"} & set(tables.tags)
    assert all(link.startswith("#") for link in tables.links)


def test_every_id_is_given_once_and_every_link_leads_to_one(demo):
    text, tables = demo.text, demo.tables
    assert len(tables.ids) == len(set(tables.ids))
    named = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)
    assert {a or b for a, b in named} <= set(tables.ids)
    assert text.count("<svg ") == 10  # two of training, two of the lab, four steps, two networks


def test_the_table_of_methods_says_what_the_records_say(demo):
    folder, tables = demo.folder, demo.tables

    def sent(name, way):
        return sum(sum(r[way]) for r in read(folder / f"{name}.jsonl").rows)

    ist = row(tables, "IST")
    last = read(folder / "ist.jsonl").rows[-1]
    payload = {n: sent(n, "bytes_down") + sent(n, "bytes_up") for n in style.LABELS}
    assert ist == [
        "IST",
        f"{100 * last['accuracy']:.1f}\xa0%",
        f"{last['steps']}",
        f"{last['samples']:,}",
        f"{sent('ist', 'bytes_down') / 1e6:.3g}",
        f"{sent('ist', 'bytes_up') / 1e6:.3g}",
        f"{payload['ist'] / payload['local_sgd']:.3g}×",
        f"{payload['ist'] / payload['synchronous_sgd']:.3g}×",
        f"{last['seconds']:.1f}",
        "ist",
    ]
    assert row(tables, "synchronous SGD")[6:8] == ["8×", "1×"]


def test_the_split_of_time_is_a_mean_over_workers_and_a_sum_over_rounds(demo):
    """60 rounds of .02 and .03 s of compute, .004 of exchange, .011 and .001 of waiting."""
    cells = [row for row in demo.tables.rows if row[0] == "IST" and len(row) == 7]
    assert cells == [["IST", "1.5", "0.2", "0.4", "0.3", "0.6", "ist"]]


def test_the_table_of_claims_says_what_was_claimed_measured_and_found(demo):
    tables = demo.tables
    for claim, equation, claimed, measured, unit, verdict in made_up.CLAIMS:
        cells = row(tables, claim)
        assert cells[1] == (equation or "–")
        assert cells[2:4] == [words.digits(claimed, unit), words.digits(measured, unit)]
        sign = {"holds": "✓", "fails": "✗", "silent": "○"}[verdict]
        assert cells[4] == f"{sign} {verdict}"
    assert "Of 6 claims, 4 hold, 1 fails and 1 is silent." in tables.text


def test_a_claim_that_fails_as_printed_stands_beside_its_correction(tmp_path):
    with writing(tmp_path / "claims.jsonl", kind="claims", name="claims", config={}) as write:
        row_ = {"claim": "theta is 9", "equation": "(28)", "claimed": 9, "measured": 12, "unit": ""}
        row_ |= {
            "verdict": "fails",
            "record": None,
            "correction": "theta is 12",
            "corrected": "holds",
        }
        write(row_)
    tables = parsed(tmp_path)
    cells = row(tables, "theta is 9Instead: theta is 12")
    assert "Of 1 claim, 1 fails; 1 that fails as printed holds as corrected." in tables.text
    assert cells[5] == "claims"
    assert cells[4] == "✗ fails as printed ✓ holds as corrected"


def test_a_verdict_of_another_word_is_shown_as_it_is():
    assert words.verdict("not run").word == "not run"
    assert words.verdict("not run").sign not in "✓✗"


def test_the_same_records_give_the_same_bytes(demo, tmp_path):
    again = report.write(demo.folder, tmp_path / "again.html")
    assert again.read_bytes() == demo.text.encode()


def test_words_from_records_stay_words(tmp_path):
    folder = made_up.demo(tmp_path)
    evil = "<script>alert(1)</script>"
    made_up.claims(folder, [(evil, "(24)", 1.0, 1.0, evil, evil)])
    with (
        pytest.raises(RuntimeError),
        writing(folder / "evil.jsonl", kind=evil, name=f'"{evil}', config={"seed": evil}),
    ):
        raise RuntimeError(evil)
    with writing(
        folder / "lab.jsonl", kind="lab", name="lab", config={"left_side": evil, "problem": evil}
    ) as write:
        write({"k": 1, "measured": 1.0, "exact": 1.0, "bound": 2.0})
    text = report.render(folder)
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 7


def test_a_record_that_was_cut_off_is_said_to_be_and_not_compared(folder):
    path = folder / "local_sgd.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-31]))
    tables = parsed(folder)
    assert "Record local_sgd was cut off after 30 rows" in tables.text
    assert row(tables, "Local SGD (cut off)")[6:8] == ["–", "–"]
    assert row(tables, "IST")[6] == "–"
    assert row(tables, "IST")[7] != "–"


def test_an_accuracy_of_an_earlier_row_has_its_steps_beside_it(folder):
    path = folder / "ist.jsonl"
    header, *rows, end = map(json.loads, path.read_text().splitlines())
    rows[-1]["accuracy"] = rows[-1]["test_loss"] = None
    path.write_text("\n".join(map(json.dumps, [header, *rows, end])) + "\n")
    last = max(each["steps"] for each in rows if each["accuracy"] is not None)
    assert row(parsed(folder), "IST")[1].endswith(f" (after {last:g})")


def test_unequal_work_is_not_compared(folder):
    made_up.training(folder, "local_sgd", n_rounds=40)
    assert row(parsed(folder), "IST")[6] == "–"


def test_a_run_that_ended_early_says_why(folder):
    path = folder / "ist.jsonl"
    lines = path.read_text().splitlines()
    lines[-1] = json.dumps({"end": "worker 3 was killed"})
    path.write_text("\n".join(lines) + "\n")
    assert "Record ist ended early after 60 rows: worker 3 was killed" in parsed(folder).text


@pytest.mark.parametrize(
    "missing", ["ist", "local_sgd", "synchronous_sgd", "deal", "interpolation", "claims"]
)
def test_what_is_missing_is_named_and_the_rest_is_shown(folder, missing):
    (folder / f"{missing}.jsonl").unlink()
    tables = parsed(folder)
    assert f"Missing in this folder: {missing}." in tables.text
    assert tables.tags.count("svg") >= 4


def test_one_record_is_enough(tmp_path):
    made_up.training(tmp_path, "ist", n_workers=2, n_rounds=1)
    tables = parsed(tmp_path)
    assert "IST on digits" in tables.text
    assert "Missing in this folder: local_sgd, diloco and synchronous_sgd." in tables.text


@pytest.mark.parametrize("kind", ["train", "lab", "deal", "claims", "notes"])
def test_a_record_without_rows_or_settings_is_shown_without_failing(tmp_path, kind):
    with writing(tmp_path / "x.jsonl", kind=kind, name="x", config={}):
        pass
    tables = parsed(tmp_path)
    assert "Record x holds no rows." in tables.text
    assert row(tables, "x.jsonl")[1].startswith(kind)


def test_a_run_that_was_never_evaluated_has_no_curve_but_a_row(tmp_path):
    with writing(tmp_path / "ist.jsonl", kind="train", name="ist", config={}) as write:
        write(
            {"k": 0, "steps": 1, "samples": 8, "accuracy": None, "bytes_down": [4], "bytes_up": [4]}
        )
    tables = parsed(tmp_path)
    assert "svg" not in tables.tags
    assert row(tables, "IST")[1] == "–"


def test_a_silent_theorem_is_called_silent(tmp_path):
    made_up.lab(tmp_path, "neighbourhood", bound=False)
    text = parsed(tmp_path).text
    assert "The theorem is silent here" in text
    assert "diverge" not in text


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no records"):
        report.write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_existing_page_survives_a_failure(folder, monkeypatch):
    target = report.write(folder)
    target.write_text("the page of last week")
    before = sorted(folder.iterdir())

    def full(_self, _target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ValueError, match=r"cannot be written to .*: No space left.*--out"):
        report.write(folder)
    monkeypatch.setattr(page, "_content", lambda *_: {})
    with pytest.raises(Exception, match="undefined"):
        report.write(folder)
    assert target.read_text() == "the page of last week"
    assert sorted(folder.iterdir()) == before


def test_a_page_in_a_folder_that_is_not_there_is_refused_in_one_line(folder):
    with pytest.raises(ValueError, match=r"No such file.*--out") as mistake:
        report.write(folder, folder / "nowhere" / "page.html")
    assert "\n" not in str(mistake.value)


def test_the_page_names_the_command_that_writes_it_again(demo):
    assert f"subnetwork report {demo.folder}" in demo.tables.text
    assert "subnetwork report &#39;runs/my demo&#39;" in report.render(
        demo.folder, called=Path("runs/my demo")
    )
