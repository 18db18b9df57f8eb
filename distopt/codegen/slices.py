"""Which numbers of a tensor slices take."""

from __future__ import annotations

from distopt.codegen.recording import Operation


def sliced(operation: Operation) -> tuple[int, range] | None:
    """The axis and the places of which ``slice`` takes the numbers; None for other operations."""
    if operation.name != "slice.Tensor":
        return None
    args = dict(zip(("self", "dim", "start", "end", "step"), operation.args, strict=False)) | operation.options
    shape = operation.args[0].shape
    axis = args.get("dim", 0) % len(shape)
    return axis, range(shape[axis])[slice(args.get("start"), args.get("end"), args.get("step", 1))]


def apart(a: range, b: range) -> bool:
    """Whether two rows of places have none in common; False also where it is not obvious."""
    return not a or not b or a[-1] < b[0] or b[-1] < a[0] or (a.step == b.step and (a[0] - b[0]) % a.step != 0)
