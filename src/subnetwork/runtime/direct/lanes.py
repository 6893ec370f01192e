"""Sixteen entries at a time, picked out and put in by a mask of bits.

LLVM has operations for it on every machine. AVX-512 has instructions; elsewhere LLVM asks for each
bit in turn, which is right but slower than a loop over the bits that are set: see `are_quick`.
(Numba keeps what it compiled for as long as the file that calls these is unchanged, not this one.)
"""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias, cast

from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

LANES = 16
Emitted: TypeAlias = tuple[Any, Callable[..., Any]]
"""A signature, and what emits the code of it: as numba's `intrinsic` has it."""


@cache
def are_quick() -> bool:
    """Whether they pay on the processor that kernels are compiled for.

    It has instructions for them: those of AVX-512, which are no quick ones on AMD's (in memory they
    are microcode, of a hundred cycles and more).
    """
    _, processor, features = cpu_target.target_context.codegen().magic_tuple()
    return "+avx512f" in features.split(",") and not processor.startswith("znver")


def _compress(_typing: Any, into: Any, t: Any, source: Any, s: Any, chosen: Any) -> Emitted:  # noqa: ANN401
    """Entries s to s + 15 of an array of which the bit is set go to entry t of another, and on.

    Only so many are written as bits are set.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        to, entries = (_place(context, builder, signature, arguments, i) for i in (0, 2))
        vector, mask = _sixteen(signature), _mask(builder, arguments[4])
        values = builder.load(builder.bitcast(entries, vector.as_pointer()), align=_size(vector))
        kind = ir.FunctionType(ir.VoidType(), [vector, to.type, mask.type])
        builder.call(_declared(builder, "compressstore", vector, kind), [values, to, mask])
        return context.get_dummy_value()

    return types.void(into, t, source, s, chosen), emit


def _expand(_typing: Any, into: Any, t: Any, source: Any, s: Any, chosen: Any) -> Emitted:  # noqa: ANN401
    """Entries s and on of an array go to those of t to t + 15 of another of which the bit is set.

    Only so many are read as bits are set; the others of the sixteen stay as they are.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        to, entries = (_place(context, builder, signature, arguments, i) for i in (0, 2))
        vector, mask = _sixteen(signature), _mask(builder, arguments[4])
        to = builder.bitcast(to, vector.as_pointer())
        before = builder.load(to, align=_size(vector))
        kind = ir.FunctionType(vector, [entries.type, mask.type, vector])
        load = _declared(builder, "expandload", vector, kind)
        builder.store(builder.call(load, [entries, mask, before]), to, align=_size(vector))
        return context.get_dummy_value()

    return types.void(into, t, source, s, chosen), emit


def _count(_typing: Any, word: Any) -> Emitted:  # noqa: ANN401, ARG001 - numba asks by its name
    """How many bits of a word are set."""

    def emit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), emit


compress = cast(Callable[[Any, Any, Any, Any, Any], None], intrinsic(_compress))
expand = cast(Callable[[Any, Any, Any, Any, Any], None], intrinsic(_expand))
count_bits = cast(Callable[[Any], Any], intrinsic(_count))


def _sixteen(signature: Any) -> Any:  # noqa: ANN401
    """The type of sixteen entries of the arrays."""
    return ir.VectorType(ir.IntType(signature.args[0].dtype.bitwidth), LANES)


def _size(vector: Any) -> int:  # noqa: ANN401
    """Bytes of an entry, which may lie at any multiple of them."""
    return int(vector.element.width) // 8


def _place(context: Any, builder: Any, signature: Any, arguments: Any, i: int) -> Any:  # noqa: ANN401
    """The address of the entry of array i whose number is the next argument."""
    array = context.make_array(signature.args[i])(context, builder, arguments[i])
    place = builder.gep(array.data, [arguments[i + 1]])
    return builder.bitcast(place, _sixteen(signature).element.as_pointer())


def _mask(builder: Any, chosen: Any) -> Any:  # noqa: ANN401
    """The lowest sixteen bits, one for each entry."""
    bits = builder.trunc(chosen, ir.IntType(LANES))
    return builder.bitcast(bits, ir.VectorType(ir.IntType(1), LANES))


def _declared(builder: Any, name: str, vector: Any, kind: Any) -> Any:  # noqa: ANN401
    """A masked operation of LLVM's own."""
    whole = f"llvm.masked.{name}.v{LANES}i{vector.element.width}"
    return builder.module.globals.get(whole) or ir.Function(builder.module, kind, whole)
