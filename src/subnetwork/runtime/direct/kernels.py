"""Compiled passes over the lines of one parameter, on one rank.

Holders are words: bit i stands for worker i. A line that one worker holds is kept by it; of several
holders one keeps the line, of those who hold it in the next round too if there are any, and such
that neighbouring lines have the same keeper; a line without holder stays with its last keeper.
Lines are visited row by row, columns ascending, by senders and receivers alike: so no index is
ever sent.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
from numba.cpython.unsafe.numbers import leading_zeros, trailing_zeros
from numpy.typing import NDArray

from subnetwork.theory.kernels.streams import bare, inlined

Array: TypeAlias = NDArray[Any]
lowest = cast(Callable[[Any], int], trailing_zeros)
"""The number of the lowest bit that is set."""
zeros_above = cast(Callable[[Any], int], leading_zeros)
UNKNOWN = 255
"""In a list of keepers: nobody held the line in the rounds looked at."""


class Masks(NamedTuple):
    """Words of the rows and columns of a parameter's table of lines."""

    rows: Array
    cols: Array


class Idle(NamedTuple):
    """Lines that a rank keeps though nobody trains them: a bit for every line of the table."""

    starts: Array  # (rows + 1,): where the lines of a row start
    words: Array  # (rows, words): bit v % 64 of word v // 64 of row u: line (u, v)


class Kept(NamedTuple):
    """What a rank keeps of a parameter in a round."""

    me: int
    now: Masks  # bit i: worker i holds them
    then: Masks  # and holds them in the next round, which says who of several keeps a line
    goal: Masks  # and is to get them now: the same, or whoever gathers the model
    after: Masks  # and holds them in the round after the next; empty, unless keepers alone get them
    mine: Array  # the columns that this rank holds, as bits
    width: int  # how many these are
    idle: Idle


class Row(NamedTuple):
    """Space for the lines of one row that a rank keeps."""

    cols: Array
    places: Array  # q: the q-th line of the row's block; -1 - p: idle line p


class Lines(NamedTuple):
    """The values of one tensor on a rank, as (lines, length)."""

    block: Array  # row-major
    idle: Array


class Sent(NamedTuple):
    """Lines that leave a rank, for every destination one after another."""

    values: Array  # flat
    rows: Array  # the row of every line; empty where nobody asks
    echo_from: Array  # a line that leaves and is needed here too: where it starts in `values`,
    echo_to: Array  # and in the next block


class Next(NamedTuple):
    """Where a rank puts what it goes on keeping."""

    lines: Lines  # the values of the next round
    idle: Idle  # the index of the next idle lines; its words are zeros
    places: Array  # column -> its place among those of the next block; last, how many these are


@inlined
def keeper_of(holders: Any, coming: Any, line: Any, n_lines: Any) -> Any:  # noqa: ANN401 - words
    """Who keeps a line with these holders, at least one, and these in the next round."""
    if holders & coming != 0:
        holders &= coming
    left = holders & (holders - np.uint64(1))
    if left == 0:
        return lowest(holders)
    several = 1
    while left != 0:
        several += 1
        left &= left - np.uint64(1)
    for _ in range(line * several // n_lines):
        holders &= holders - np.uint64(1)
    return lowest(holders)


@inlined
def needed_by(kept: Kept, u: int, v: int) -> Any:  # noqa: ANN401 - a word
    """Who is to get line (u, v): all whom `goal` names, or the one of them that will keep it."""
    holders = kept.goal.rows[u] & kept.goal.cols[v]
    if len(kept.after.rows) == 0 or holders == 0:
        return holders
    n_rows, n_cols = len(kept.goal.rows), len(kept.goal.cols)
    coming = kept.after.rows[u] & kept.after.cols[v]
    keeper = keeper_of(holders, coming, u * n_cols + v, n_rows * n_cols)
    return np.uint64(1) << np.uint64(keeper)


@inlined
def count(others: Any, counts: Array) -> None:  # noqa: ANN401
    """Count a line for each of these workers."""
    while others != 0:
        counts[lowest(others)] += 1
        others &= others - np.uint64(1)


@inlined
def copy_line(target: Array, t: int, source: Array, s: int) -> None:
    """Line s of one table becomes line t of another."""
    for e in range(source.shape[1]):
        target[t, e] = source[s, e]


@inlined
def lay_out(target: Array, start: int, source: Array, s: int) -> None:
    """Line s of a table goes to a flat buffer."""
    for e in range(source.shape[1]):
        target[start + e] = source[s, e]


@inlined
def kept_row(kept: Kept, u: int, row: Row) -> int:
    """Find the lines of row u that this rank keeps, columns ascending; returns their number."""
    m, p, q = 0, kept.idle.starts[u], 0
    held = kept.now.rows[u] >> np.uint64(kept.me) & np.uint64(1) != 0
    n_rows, n_cols = len(kept.now.rows), len(kept.now.cols)
    for w in range(len(kept.mine)):
        idle = kept.idle.words[u, w]
        left = idle | kept.mine[w] if held else idle
        while left != 0:
            bit = lowest(left)
            left &= left - np.uint64(1)
            v = 64 * w + bit
            if idle >> np.uint64(bit) & np.uint64(1):
                row.cols[m], row.places[m] = v, -1 - p
                m, p = m + 1, p + 1
                continue
            holders = kept.now.rows[u] & kept.now.cols[v]
            coming = kept.then.rows[u] & kept.then.cols[v]
            if keeper_of(holders, coming, u * n_cols + v, n_rows * n_cols) == kept.me:
                row.cols[m], row.places[m] = v, q
                m += 1
            q += 1
    return m


@bare
def tally(kept: Kept, row: Row, counts: Array, starts: Array) -> int:
    """Count the lines that leave for each worker; find where the rows of the next idle lines start.

    Returns the number of lines that leave and are needed here too.
    """
    bit, echoes = np.uint64(1) << np.uint64(kept.me), 0
    for u in range(len(kept.goal.rows)):
        waiting = 0
        for i in range(kept_row(kept, u, row)):
            holders = needed_by(kept, u, row.cols[i])
            waiting += holders == 0
            count(holders & ~bit, counts)
            echoes += holders & bit != 0 and holders != bit
        starts[u + 1] = starts[u] + waiting
    return echoes


@inlined
def send_line(
    others: Any,  # noqa: ANN401 - a word
    u: int,
    source: Array,
    s: int,
    sent: Sent,
    offsets: Array,
) -> None:
    """Line s of a table, of row u, goes to all these workers."""
    while others != 0:
        t = offsets[lowest(others)]
        lay_out(sent.values, t, source, s)
        if len(sent.rows):
            sent.rows[t // source.shape[1]] = u
        others &= others - np.uint64(1)


@inlined
def step_over(others: Any, offsets: Array, step: int) -> None:  # noqa: ANN401
    """Move the offsets of these workers."""
    while others != 0:
        offsets[lowest(others)] += step
        others &= others - np.uint64(1)


@inlined
def rows_before(masks: Masks, me: int, u: int) -> int:
    """How many rows before row u a worker has."""
    bit, found = np.uint64(1) << np.uint64(me), 0
    for i in range(u):
        found += masks.rows[i] & bit != 0
    return found


@bare
def deal_out(kept: Kept, row: Row, have: Lines, sent: Sent, offsets: Array, target: Next) -> None:
    """Move every line to where it is needed next: another worker, the own block, the idle lines.

    The next block may be the memory of the block. Lines that stay keep their order; one that moves
    down, or was idle, comes to where one before it was, or none that stays. Those are dealt out
    last, ascending, and all others first, descending: none is written over before it is dealt out.

    Args:
        kept: what this rank keeps, and who holds what in the next round.
        row: space for a row.
        have: the values of this round.
        sent: is filled.
        offsets: where the entries for each worker end in `sent`.
        target: is filled, but for the lines of the block that others send.
    """
    then, length, n_rows = kept.goal, have.block.shape[1], len(kept.goal.rows)
    bit = np.uint64(1) << np.uint64(kept.me)
    base = rows_before(kept.now, kept.me, n_rows) * kept.width
    next_base = rows_before(then, kept.me, n_rows) * target.places[-1]
    w, echo = target.idle.starts[-1], 0
    for i in range(2 * n_rows):
        first = i < n_rows
        u = n_rows - 1 - i if first else i - n_rows
        back, on = np.int64(first), np.int64(not first)
        held, coming = kept.now.rows[u] & bit != 0, then.rows[u] & bit != 0
        base -= back * held * kept.width
        next_base -= back * coming * target.places[-1]
        n_kept = kept_row(kept, u, row)
        for q in range(n_kept):
            at = n_kept - 1 - q if first else q
            v, place = row.cols[at], row.places[at]
            source, s = (have.block, base + place) if place >= 0 else (have.idle, -1 - place)
            holders, t = needed_by(kept, u, v), next_base + target.places[v]
            last = holders & bit != 0 and (place < 0 or t < base + place)
            step_over(holders & ~bit, offsets, -back * length)
            if last != first:
                send_line(holders & ~bit, u, source, s, sent, offsets)
                if holders == 0:
                    w -= 1
                    target.idle.words[u, v >> 6] |= np.uint64(1) << np.uint64(v & 63)
                    copy_line(target.lines.idle, w, source, s)
                elif holders & bit != 0:
                    copy_line(target.lines.block, t, source, s)
                    if holders != bit:
                        sent.echo_to[echo] = t
                        sent.echo_from[echo] = offsets[lowest(holders & ~bit)]
                        echo += 1
            step_over(holders & ~bit, offsets, on * length)
        base += on * held * kept.width
        next_base += on * coming * target.places[-1]


@bare
def left_over(kept: Kept, row: Row, words: Array) -> None:
    """Set the bits of the lines that a rank keeps and nobody gets next.

    Args:
        kept: what the rank keeps, and who holds what in the next round.
        row: space for a row.
        words: (rows, words) of zeros, is filled.
    """
    for u in range(len(kept.goal.rows)):
        for i in range(kept_row(kept, u, row)):
            v = row.cols[i]
            if kept.goal.rows[u] & kept.goal.cols[v] == 0:
                words[u, v >> 6] |= np.uint64(1) << np.uint64(v & 63)


@bare
def among(words: Array, others: Array, flags: Array) -> None:
    """For every bit that is set in (rows, words), in order, whether it is set in others too."""
    p = 0
    for u in range(len(words)):
        for w in range(words.shape[1]):
            left = words[u, w]
            while left != 0:
                flags[p] = others[u, w] >> np.uint64(lowest(left)) & np.uint64(1) != 0
                p += 1
                left &= left - np.uint64(1)


@bare
def last_keepers(now: Masks, then: Masks, rows: Array, cols: Array, keepers: Array) -> int:
    """Keepers of these lines after a round in which somebody held them; else UNKNOWN.

    Returns the number of unknown ones.
    """
    n_cols, q, unknown = len(now.cols), 0, 0
    for u in rows:
        for v in cols:
            holders = now.rows[u] & now.cols[v]
            if holders == 0:
                keepers[q] = UNKNOWN
                unknown += 1
            else:
                coming = then.rows[u] & then.cols[v]
                keepers[q] = keeper_of(holders, coming, u * n_cols + v, len(now.rows) * n_cols)
            q += 1
    return unknown


@bare
def look_back(history: Masks, rows: Array, cols: Array, keepers: Array) -> int:
    """Fill in keepers that are UNKNOWN from the last round of a word in which a line was held.

    Returns the number of those that stay unknown.
    """
    n_rows, n_workers = history.rows.shape
    n_cols, q, unknown = len(history.cols), -1, 0
    for u in rows:
        for v in cols:
            q += 1
            if keepers[q] != UNKNOWN:
                continue
            held = np.uint64(0)
            for i in range(n_workers):
                held |= history.rows[u, i] & history.cols[v, i]
            if held == 0:
                unknown += 1
                continue
            last, holders = np.uint64(63 - zeros_above(held)), np.uint64(0)
            for i in range(n_workers):
                then = history.rows[u, i] & history.cols[v, i]
                holders |= (then >> last & np.uint64(1)) << np.uint64(i)
            keepers[q] = keeper_of(holders, np.uint64(0), u * n_cols + v, n_rows * n_cols)
    return unknown


@bare
def take_in(keepers: Array, me: int, values: Array, offsets: Array, block: Array) -> None:
    """Put the lines that others sent where they belong in the block.

    Args:
        keepers: who keeps each line of the block, and so has sent it.
        me: this rank, whose own lines are there already.
        values: the lines of every sender one after another, flat.
        offsets: where those of each sender start; moved to their ends.
        block: (lines, length).
    """
    for q in range(len(keepers)):
        if keepers[q] != me:
            start = offsets[keepers[q]]
            for e in range(block.shape[1]):
                block[q, e] = values[start + e]
            offsets[keepers[q]] = start + block.shape[1]
