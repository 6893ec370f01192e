"""Compiled passes where no line has two holders: a word of bits at a time, not line by line.

The same lines in the same order as those of `kernels`. Sets of columns are rows of words: bit
v % 64 of word v // 64 is column v.
"""

from typing import Any, NamedTuple

import numpy as np

from subnetwork.runtime.direct.kernels import (
    Array,
    Kept,
    Lines,
    Masks,
    Next,
    Sent,
    lowest,
    rows_before,
)
from subnetwork.runtime.direct.lanes import LANES, compress, count_bits, expand
from subnetwork.theory.kernels.streams import bare, inlined

PART = np.uint64((1 << LANES) - 1)


class Dense(NamedTuple):
    """What every row is dealt out by, and space for the entries of one row at their columns."""

    values: Array  # 64 for every word
    cols: Array  # that this rank holds now, ascending
    goal: Array  # (workers, words): the columns that each worker is to get
    words: Array  # space: of the lines of the row that are still to be dealt out
    lanes: bool  # sixteen entries at a time, which says nothing about what comes out


@inlined
def take_word(word: Any, source: Array, v: int, into: Array, t: int) -> Any:  # noqa: ANN401
    """The entries v + bit of an array, in order, to t and on of another; returns the next t."""
    for part in range(0, 64, LANES):
        chosen = word >> np.uint64(part) & PART
        compress(into, t, source, v + part, chosen)
        t += count_bits(chosen)
    return t


@inlined
def put_word(word: Any, into: Array, v: int, source: Array, s: int) -> Any:  # noqa: ANN401
    """The entries s and on of an array, in order, to v + bit of another; returns the next s."""
    for part in range(0, 64, LANES):
        chosen = word >> np.uint64(part) & PART
        expand(into, v + part, source, s, chosen)
        s += count_bits(chosen)
    return s


@bare
def column_words(cols: Array, words: Array) -> None:
    """Words of the columns as sets of columns: bit v of set i, where worker i holds column v."""
    for v in range(len(cols)):
        holders = cols[v]
        while holders != 0:
            words[lowest(holders), v >> 6] |= np.uint64(1) << np.uint64(v & 63)
            holders &= holders - np.uint64(1)


@bare
def tally_rows(kept: Kept, goal: Array, counts: Array, starts: Array) -> None:
    """`kernels.tally`: count lines that leave; find where the rows of the next idle lines start.

    Args:
        kept: what this rank keeps.
        goal: (workers, words): the columns that each worker is to get.
        counts: lines that leave for each worker, are added.
        starts: where the rows of the next idle lines start, is filled.
    """
    for u in range(len(kept.goal.rows)):
        held = kept.now.rows[u] >> np.uint64(kept.me) & np.uint64(1) != 0
        waiting = kept.idle.starts[u + 1] - kept.idle.starts[u] + (kept.width if held else 0)
        others = kept.goal.rows[u]
        while others != 0:
            j, found = lowest(others), 0
            for w in range(len(kept.mine)):
                word = kept.idle.words[u, w] | kept.mine[w] if held else kept.idle.words[u, w]
                found += count_bits(word & goal[j, w])
            counts[j] += found
            waiting -= found
            others &= others - np.uint64(1)
        starts[u + 1] = starts[u] + waiting
    counts[kept.me] = 0


@inlined
def spread_row(kept: Kept, u: int, base: int, have: Lines, dense: Dense) -> None:
    """Put the entries of row u that this rank keeps at their columns, and note which these are."""
    p, q, idle, block = kept.idle.starts[u], base, have.idle.reshape(-1), have.block.reshape(-1)
    held = kept.now.rows[u] >> np.uint64(kept.me) & np.uint64(1) != 0
    for w in range(len(kept.mine)):
        left = kept.idle.words[u, w]
        dense.words[w] = left | kept.mine[w] if held else left
        if dense.lanes:
            p = put_word(left, dense.values, 64 * w, idle, p)
            if held:
                q = put_word(kept.mine[w], dense.values, 64 * w, block, q)
            continue
        while left != 0:
            dense.values[64 * w + lowest(left)] = idle[p]
            p += 1
            left &= left - np.uint64(1)
    if held and not dense.lanes:
        for q in range(len(dense.cols)):
            dense.values[dense.cols[q]] = block[base + q]


@inlined
def pick(dense: Dense, goal: Array, values: Array, t: int) -> None:
    """Take the row's entries at these columns, in order, to t and on."""
    for w in range(len(dense.words)):
        left = dense.words[w] & goal[w]
        dense.words[w] ^= left
        if dense.lanes:
            t = take_word(left, dense.values, 64 * w, values, t)
            continue
        while left != 0:
            values[t] = dense.values[64 * w + lowest(left)]
            t += 1
            left &= left - np.uint64(1)


@inlined
def pick_into(dense: Dense, goal: Array, block: Array, base: int, places: Array) -> None:
    """Take the row's entries at these columns to their places in a row of the next block.

    Sixteen at a time, the places of entries that others send are filled too, with anything.
    """
    t, flat = base, block.reshape(-1)
    for w in range(len(dense.words)):
        left = dense.words[w] & goal[w]
        dense.words[w] ^= left
        if dense.lanes:
            t = take_word(goal[w], dense.values, 64 * w, flat, t)
            continue
        while left != 0:
            v = 64 * w + lowest(left)
            flat[base + places[v]] = dense.values[v]
            left &= left - np.uint64(1)


@inlined
def leave(kept: Kept, u: int, goal: Array, sent: Sent, offsets: Array, sign: int) -> None:
    """Move the offsets by what leaves of row u; on the way back (-1) note whose row it is."""
    held = kept.now.rows[u] >> np.uint64(kept.me) & np.uint64(1) != 0
    others = kept.goal.rows[u] & ~(np.uint64(1) << np.uint64(kept.me))
    while others != 0:
        j, found = lowest(others), 0
        others &= others - np.uint64(1)
        for w in range(len(kept.mine)):
            word = kept.idle.words[u, w] | kept.mine[w] if held else kept.idle.words[u, w]
            found += count_bits(word & goal[j, w])
        offsets[j] += sign * found
        if sign < 0 and len(sent.rows):
            sent.rows[offsets[j] : offsets[j] + found] = u


@inlined
def deal_out_row(
    kept: Kept, u: int, next_base: int, dense: Dense, sent: Sent, offsets: Array, target: Next
) -> None:
    """Move the entries of row u, which are spread, to where they are needed next."""
    others = kept.goal.rows[u]
    while others != 0:
        j = lowest(others)
        others &= others - np.uint64(1)
        if j == kept.me:
            pick_into(dense, dense.goal[j], target.lines.block, next_base, target.places)
        else:
            pick(dense, dense.goal[j], sent.values, offsets[j])
    for w in range(len(dense.words)):
        target.idle.words[u, w] = dense.words[w]
    pick(dense, dense.words, target.lines.idle.reshape(-1), target.idle.starts[u])


@bare
def deal_out_rows(
    kept: Kept, dense: Dense, have: Lines, sent: Sent, offsets: Array, target: Next
) -> None:
    """`kernels.deal_out` for lines of one entry of which none has two holders, now or next.

    Here whole rows take the place of lines: a row is read before any of it is written.
    """
    bit, n_rows, width = np.uint64(1) << np.uint64(kept.me), len(kept.goal.rows), target.places[-1]
    now, then = rows_before(kept.now, kept.me, n_rows), rows_before(kept.goal, kept.me, n_rows)
    for i in range(2 * n_rows):
        first = i < n_rows
        u = n_rows - 1 - i if first else i - n_rows
        held, coming = kept.now.rows[u] & bit != 0, kept.goal.rows[u] & bit != 0
        if first:
            now, then = now - held, then - coming
            leave(kept, u, dense.goal, sent, offsets, -1)
        if (coming and (not held or then < now)) != first:
            spread_row(kept, u, now * kept.width, have, dense)
            deal_out_row(kept, u, then * width, dense, sent, offsets, target)
        if not first:
            now, then = now + held, then + coming
            leave(kept, u, dense.goal, sent, offsets, 1)


@bare
def doubled(words: Array) -> Any:  # noqa: ANN401 - a word
    """Of (lines, workers) of history: bit t, where in round t one of them had two holders."""
    twice = np.uint64(0)
    for u in range(len(words)):
        seen = np.uint64(0)
        for i in range(words.shape[1]):
            twice |= seen & words[u, i]
            seen |= words[u, i]
    return twice


@bare
def columns_by_round(cols: Array, newest: int, sets: Array) -> None:
    """Sets of columns, (rounds, workers, words), out of a word of history; the newest round first.

    Args:
        cols: (columns, workers): bit t: the worker held the column in round t of the word.
        newest: the last of these rounds.
        sets: zeros, are filled.
    """
    for v in range(len(cols)):
        bit = np.uint64(1) << np.uint64(v & 63)
        for i in range(cols.shape[1]):
            left = cols[v, i]
            while left != 0:
                t = newest - lowest(left)
                left &= left - np.uint64(1)
                if 0 <= t < len(sets):
                    sets[t, i, v >> 6] |= bit


@inlined
def move(left: Array, chosen: Array, into: Array) -> None:
    """Take the chosen bits out of one set and put them into another."""
    for w in range(len(left)):
        found = left[w] & chosen[w]
        into[w] |= found
        left[w] ^= found


@inlined
def some(words: Array) -> Any:  # noqa: ANN401
    """Whether a bit is set."""
    either = np.uint64(0)
    for w in range(len(words)):
        either |= words[w]
    return either != 0


@bare
def find_senders(
    history: Array, newest: int, sets: Array, rows: Array, left: Array, senders: Array
) -> int:
    """Who keeps the lines that are `left`: the last holders, in rounds without two of one line.

    Args:
        history: (rows, workers): bit t: the worker held the row in round t of the word.
        newest: the last of these rounds.
        sets: of `columns_by_round`.
        rows: the rows that are asked for.
        left: (these rows, words): the columns without an answer yet; those found are taken out.
        senders: (these rows, workers, words): are added to.

    Returns:
        How many lines are left.
    """
    remaining = 0
    for r in range(len(rows)):
        for t in range(len(sets)):
            for i in range(history.shape[1]):
                if history[rows[r], i] >> np.uint64(newest - t) & np.uint64(1):
                    move(left[r], sets[t, i], senders[r, i])
            if not some(left[r]):
                break
        for w in range(left.shape[1]):
            remaining += count_bits(left[r, w])
    return remaining


@bare
def at_home(rows: Array, n_cols: int, left: Array, senders: Array) -> None:
    """Line (u, v) that was never held is with worker (u n_cols + v) mod n."""
    for r in range(len(rows)):
        for w in range(left.shape[1]):
            bits = left[r, w]
            while bits != 0:
                v = 64 * w + lowest(bits)
                i = (rows[r] * n_cols + v) % senders.shape[1]
                senders[r, i, w] |= np.uint64(1) << np.uint64(v & 63)
                bits &= bits - np.uint64(1)


@bare
def count_senders(senders: Array, counts: Array) -> None:
    """How many lines each worker sends, are added."""
    for r in range(len(senders)):
        for i in range(senders.shape[1]):
            for w in range(senders.shape[2]):
                counts[i] += count_bits(senders[r, i, w])


@bare
def take_in_lanes(
    senders: Array, me: int, values: Array, offsets: Array, mine: Array, block: Array, row: Array
) -> None:
    """`take_in_rows` for lines of one entry, sixteen at a time.

    Args:
        senders: (rows of the block, workers, words).
        me: this rank, whose own lines are there already.
        values: the lines of every sender one after another.
        offsets: where those of each sender start; moved to their ends.
        mine: the columns of the block, as bits.
        block: its entries, flat.
        row: space for 64 entries.
    """
    q = 0
    for r in range(len(senders)):
        for w in range(len(mine)):
            theirs = mine[w] & ~senders[r, me, w]
            if theirs != 0:
                put_word(mine[w], row, 0, block, q)
                for i in range(senders.shape[1]):
                    if i != me:
                        offsets[i] = put_word(senders[r, i, w], row, 0, values, offsets[i])
                take_word(mine[w], row, 0, block, q)
            q += count_bits(mine[w])


@bare
def take_in_rows(
    senders: Array, me: int, values: Array, offsets: Array, places: Array, block: Array
) -> None:
    """`kernels.take_in` by `find_senders`, for lines of any length.

    Args:
        senders: (rows of the block, workers, words).
        me: this rank, whose own lines are there already.
        values: the lines of every sender one after another, flat.
        offsets: where those of each sender start; moved to their ends.
        places: column -> its place among those of the block; last, how many these are.
        block: (lines, length).
    """
    width, length = places[-1], block.shape[1]
    for r in range(len(senders)):
        for i in range(senders.shape[1]):
            if i == me:
                continue
            start = offsets[i]
            for w in range(senders.shape[2]):
                left = senders[r, i, w]
                while left != 0:
                    q = r * width + places[64 * w + lowest(left)]
                    for e in range(length):
                        block[q, e] = values[start + e]
                    start += length
                    left &= left - np.uint64(1)
            offsets[i] = start


def sets_of(masks: Masks, n_workers: int) -> Array:
    """(workers, words): the columns of each worker."""
    sets = np.zeros((n_workers, n_words(len(masks.cols))), np.uint64)
    column_words(masks.cols, sets)
    return sets


def n_words(n_cols: int) -> int:
    """Words for a bit a column."""
    return -(-n_cols // 64)
