"""Chunks of a run that were made up: each is an npz file that no run wrote."""

from __future__ import annotations

import io
import struct
import zipfile


def npy(shape: tuple[int, ...], data: bytes, dtype: str = "<f8") -> bytes:
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def npz(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def pointed(count: int) -> bytes:
    """An archive of many members that are all the same bytes."""
    whole = npz({"x.npy": npy((1000,), bytes(8000))})
    begin = whole.rindex(b"PK\x01\x02")
    end = whole.rindex(b"PK\x05\x06")
    entries = b"".join(whole[begin:end].replace(b"x.npy", f"{k:01d}.npy".encode()[-5:]) for k in range(count))
    return whole[:begin] + entries + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(entries), begin, 0)


CRAFTED = {
    "bomb": npz({"rounds.npy": npy((2**20,), bytes(2**23))}, zipfile.ZIP_DEFLATED),
    "huge shape": npz({"rounds.npy": npy((2**40,), bytes(8))}),
    "overflowing shape": npz({"rounds.npy": npy((2**40, 2**40), bytes(8))}),
    "negative shape": npz({"rounds.npy": npy((-1,), bytes(8))}),
    "shape of a bool": npz({"rounds.npy": npy((True, "1"), bytes(8))}),
    "objects": npz({"rounds.npy": npy((1,), bytes(8), "|O")}),
    "texts": npz({"rounds.npy": npy((1,), bytes(8), "<U2")}),
    "no type": npz({"rounds.npy": npy((1,), bytes(8), "nonsense")}),
    "no header": npz({"rounds.npy": b"\x93NUMPY\x01\x00\xff\xff("}),
    "code": npz({"rounds.npy": b"\x93NUMPY\x01\x00\x20\x00" + b"__import__('os').abort()".ljust(32)}),
    "many brackets": npz({"rounds.npy": b"\x93NUMPY\x01\x00\x00\x20" + b"(" * 8192}),
    "no rounds": npz({"m.bits.npy": npy((1, 1), bytes(8))}),
    "floats as rounds": npz({"rounds.npy": npy((1,), bytes(8)), "m.bits.npy": npy((1, 1), bytes(8))}),
    "falling rounds": npz({"rounds.npy": npy((2,), struct.pack("<2q", 1, 0), "<i8")}),
    "a metric too short": npz(
        {"rounds.npy": npy((2,), struct.pack("<2q", 0, 1), "<i8"), "m.bits.npy": npy((1, 1), bytes(8))}
    ),
    "a file": npz({"rounds.npy": npy((1,), bytes(8), "<i8"), "../../x": b"1"}),
    "not an archive": npy((1,), bytes(8)),
    "one member as many": pointed(9),
}
