"""The page docs/paper.md: statement, code and verdict of every equation, made from `verify`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from subnetwork.experiments.outcome import Outcome
from subnetwork.experiments.verify import numbers


@dataclass(frozen=True)
class Statement:
    """One line of the page: equations first..last, what they say, where the code is."""

    first: int
    last: int
    figure: str  # the experiment that draws it
    says: str
    code: tuple[str, ...]  # module:name under subnetwork

    @property
    def equations(self) -> str:
        """Their numbers: (5), or (22)-(24)."""
        one = f"({self.first})"
        return one if self.first == self.last else f"{one}-({self.last})"


STATEMENTS = (
    Statement(1, 1, "eq_1_3", "f is the mean of the f_i", ("theory.problems:Quadratics",)),
    Statement(2, 2, "eq_4", "x+ = x - gamma g, the update form", ("theory.merges:update_form",)),
    Statement(3, 3, "eq_1_3", "g_i = C_i grad f_i(C_i x)", ("theory.work:GradientSteps",)),
    Statement(
        4, 4, "eq_4", "Algorithm 1 as one line", ("algorithm:rounds", "theory.merges:merge_form")
    ),
    Statement(5, 5, "eq_5", "the Perm-q sketch", ("theory.sketches:Dealt", "deals:Perm")),
    Statement(
        6, 6, "eq_6", "E grad f(Cx) is not grad f(x)", ("experiments.identities:identities",)
    ),
    Statement(
        7, 8, "eq_7_8", "bounded gradients, and why not", ("theory.prior_work:BoundedGradient",)
    ),
    Statement(9, 9, "eq_9_11", "the quadratic model", ("theory.problems:Quadratics",)),
    Statement(10, 11, "eq_9_11", "g = B x - mean C_i b_i", ("theory.estimator:estimator",)),
    Statement(
        12,
        13,
        "eq_12_13",
        "preconditioned Perm-1, E B = I",
        ("theory.sketches:PreconditionedPerm1",),
    ),
    Statement(14, 14, "eq_14_17", "E mean C_i b_i", ("theory.perm1:dealt_b",)),
    Statement(15, 17, "eq_14_17", "E g = L^-1 grad f + h", ("theory.perm1:h_17",)),
    Statement(18, 18, "eq_18", "heterogeneity is bounded", ("theory.perm1:sigma2_18",)),
    Statement(
        19, 19, "eq_19", "convergence to a neighbourhood", ("theory.theorems:Neighbourhood",)
    ),
    Statement(
        20,
        20,
        "gdci_threshold",
        "prior work wants q close to d",
        ("theory.prior_work:CompressedIterates",),
    ),
    Statement(
        21, 21, "eq_7_8", "prior work wants Lipschitz f", ("theory.prior_work:BoundedGradient",)
    ),
    Statement(
        22, 24, "eq_22_24", "stationary points, b_i = 0", ("theory.theorems:StationaryPoints",)
    ),
    Statement(25, 26, "eq_25_26", "gradient descent", ("theory.special_cases:gradient_descent",)),
    Statement(
        27,
        28,
        "eq_28",
        "IST as Perm-1",
        ("theory.special_cases:perm1", "theory.perm1:BLB_28_corrected"),
    ),
    Statement(
        29, 31, "eq_29_31", "homogeneous preconditioning", ("theory.special_cases:homogeneous",)
    ),
    Statement(
        32, 34, "eq_32_34", "heterogeneous preconditioning", ("theory.special_cases:heterogeneous",)
    ),
)

HEAD = """# The paper, line by line

Statements of the slides (Shulgin & Richtarik, ICML 2023 workshop; arXiv 2306.16484), where the code
is, and what `subnetwork lab verify` finds. Made by `subnetwork.experiments.paper`; a test compares
this file with a fresh run, so edit the code and not the file.

"Holds" is to 1e-10 by enumeration of all draws, or exactly along a run. "Corrected" means that the
print fails and the line below it holds in its place. `subnetwork lab figure NAME` draws the figure.

| eq. | statement | code | figure | verdict |
|---|---|---|---|---|
"""


def page(outcomes: Sequence[Outcome]) -> str:
    """The text of docs/paper.md for a table of `verify`."""
    lines = [_line(s, outcomes) for s in STATEMENTS]
    rest = [o for o in outcomes if not numbers([o])]
    said = "\n".join(f"| {o.equation} | {_cell(_plain(o))} | {_verdict([o])} |" for o in rest)
    return (
        HEAD
        + "\n".join(lines)
        + "\n\n## Beside the numbered equations\n\n`v1` is the paper's first version, `deck` its "
        "simplifications and takeaways, `A` our\nEuclidean theorem (`theory.theorem_a`).\n\n"
        + "| from | statement | verdict |\n|---|---|---|\n"
        + said
        + "\n"
    )


def _line(s: Statement, outcomes: Sequence[Outcome]) -> str:
    numbered = set(range(s.first, s.last + 1))
    rows = [o for o in outcomes if numbers([o]) & numbered]
    code = ", ".join(f"`{place}`" for place in s.code)
    return f"| {s.equations} | {s.says} | {code} | `{s.figure}` | {_verdict(rows)} |"


def _verdict(rows: Iterable[Outcome]) -> str:
    rows = list(rows)
    if not all(row.stands for row in rows):
        return "**fails**"
    failing = [row.correction for row in rows if row.verdict == "fails" and row.correction]
    noted = [row.correction for row in rows if row.verdict == "holds" and row.correction]
    if failing:
        return _cell("corrected: " + "; ".join(dict.fromkeys(failing)))
    return _cell("holds" + ("; " + "; ".join(dict.fromkeys(noted)) if noted else ""))


def _plain(o: Outcome) -> str:
    """The claim without what only a number would follow."""
    return o.claim.removesuffix(": deviation").removesuffix(": largest deviation")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
