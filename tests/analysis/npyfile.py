# SPDX-License-Identifier: Apache-2.0
"""Writes .npy files without NumPy, for tests; shares no code with the importer."""
import pathlib
import struct

CODES = {"|u1": "B", "<u2": "H", "<i2": "h", ">i2": "h", "<i4": "i", "<i8": "q", ">i8": "q", "<f4": "f", "<f8": "d"}


def flat(values):
    if isinstance(values, (list, tuple)):
        for value in values:
            yield from flat(value)
    else:
        yield values


def shape_of(values):
    shape = []
    while isinstance(values, (list, tuple)):
        shape.append(len(values))
        values = values[0] if values else None
    return tuple(shape)


def write(path, values, dtype="<i8", shape=None, fortran=False, version=1, cut=0):
    """values: nested lists, outermost axis first. `cut` bytes are left out at the end."""
    numbers = list(flat(values))
    shape = shape_of(values) if shape is None else shape
    if fortran:
        strides = [1]
        for size in shape[::-1][:-1]:
            strides.insert(0, strides[0] * size)
        order = []

        def walk(index, axis):
            if axis < 0:
                order.append(sum(i * s for i, s in zip(index, strides)))
                return
            for i in range(shape[axis]):
                walk([i] + index, axis - 1)
        walk([], len(shape) - 1)
        numbers = [numbers[i] for i in order]
    head = repr({"descr": dtype, "fortran_order": fortran, "shape": tuple(shape)}).encode() + b"\n"
    body = b"\x93NUMPY" + bytes([version, 0])
    body += struct.pack("<H" if version == 1 else "<I", len(head)) + head
    body += struct.pack((">" if dtype[0] == ">" else "<") + str(len(numbers)) + CODES[dtype], *numbers)
    pathlib.Path(path).write_bytes(body[:len(body) - cut])
    return path
