# SPDX-License-Identifier: Apache-2.0
"""A reader and a writer of integer .npy files, for the checks: nothing is shared with the workload's."""
import ast
import struct
import sys
from array import array

TYPES = {"u1": "B", "i1": "b", "u2": "H", "i2": "h", "u4": "I", "i4": "i", "u8": "Q", "i8": "q"}


class Npy:
    """A C-order array: shape, flat values and the distance of neighbours on each axis."""

    def __init__(self, shape, values, code="u1"):
        self.shape, self.values, self.code = tuple(shape), values, code
        self.strides = [1] * len(self.shape)
        for i in range(len(self.shape) - 2, -1, -1):
            self.strides[i] = self.strides[i + 1] * self.shape[i + 1]


def load(path):
    with open(path, "rb") as f:
        data = f.read()
    if data[:6] != b"\x93NUMPY":
        raise ValueError(f"{path}: not an .npy file")
    size, start = (2, 10) if data[6] == 1 else (4, 12)
    length = int.from_bytes(data[8:8 + size], "little")
    header = ast.literal_eval(data[start:start + length].decode("latin1"))
    code = header["descr"].lstrip("|<=")
    if header["fortran_order"] or header["descr"].startswith(">") or code not in TYPES:
        raise ValueError(f"{path}: need little-endian integers in C order")
    values = array(TYPES[code])
    values.frombytes(data[start + length:])
    if sys.byteorder == "big":
        values.byteswap()
    return Npy(header["shape"], values, code)


def save(path, npy):
    order = "|" if npy.code[1] == "1" else "<"
    text = (f"{{'descr': '{order}{npy.code}', 'fortran_order': False, "
            f"'shape': ({', '.join(map(str, npy.shape))},), }}")
    text += " " * (-(10 + len(text) + 1) % 64) + "\n"
    values = array(TYPES[npy.code], npy.values)
    if sys.byteorder == "big":
        values.byteswap()
    with open(path, "wb") as f:
        f.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + values.tobytes())
