# SPDX-License-Identifier: Apache-2.0
"""NOT PyTorch: a stand-in with the few names of it that tests/gpu/job.py uses, so that tests/gpu/run --dry exercises that
program where there is no GPU. Tensors live in the memory of the stand-in CUDA; products, sums and gradients compute nothing
but occupy the stand-in device for a while; exchanges really move their bytes, through the stand-in NCCL."""
import ctypes
import math

from . import _libraries

__version__ = "stand-in"


class version:
    cuda = "stand-in"


class dtype:
    def __init__(self, name, itemsize, nccl, ctype):
        self.name, self.itemsize, self.nccl, self.ctype = name, itemsize, nccl, ctype


float32 = dtype("float32", 4, 7, ctypes.c_float)
bfloat16 = dtype("bfloat16", 2, 9, ctypes.c_uint16)
int64 = dtype("int64", 8, 4, ctypes.c_int64)
KERNEL_NS = 20000
_grad = [True]
_free = {}  # bytes: pointers that tensors have left


class no_grad:
    def __enter__(self):
        self.before, _grad[0] = _grad[0], False

    def __exit__(self, *_):
        _grad[0] = self.before


class Tensor:
    def __init__(self, shape, kind, of=None, offset=0):
        self.shape, self.dtype, self.of = tuple(shape), kind, of
        self.requires_grad, self.grad, self.node = False, None, None
        self.bytes = max(1, self.numel() * kind.itemsize)
        if of is not None:
            self.ptr = of.ptr + offset
        elif _free.get(self.bytes):
            self.ptr = _free[self.bytes].pop()
        else:
            self.ptr = _libraries.get("cudaMalloc", self.bytes).value

    def __del__(self):
        if self.of is None and hasattr(self, "ptr"):
            _free.setdefault(self.bytes, []).append(self.ptr)

    def numel(self):
        return math.prod(self.shape)

    def element_size(self):
        return self.dtype.itemsize

    def new_empty(self, shape):
        return Tensor(shape, self.dtype)

    def contiguous(self):
        return self

    def detach(self):
        return Tensor(self.shape, self.dtype, of=self)

    def requires_grad_(self):
        self.requires_grad = True
        return self

    def _host(self):
        """The values themselves: the stand-in's device memory is host memory."""
        return (self.dtype.ctype * self.numel()).from_address(self.ptr)

    def __getitem__(self, rows):
        first, last, _ = rows.indices(self.shape[0])
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        return Tensor((last - first, *self.shape[1:]), self.dtype, of=self, offset=first * row)

    def __eq__(self, value):
        return Values(v == value for v in self.tolist())

    __hash__ = object.__hash__

    def tolist(self):
        _libraries.call("cudaDeviceSynchronize")
        return list(self._host()) if self.numel() else []

    def __matmul__(self, other):
        return _op("_Z4gemmv", (self.shape[0], other.shape[1]), self.dtype, self, other)

    def __mul__(self, factor):
        return _op("_Z5scalev", self.shape, self.dtype, self)

    def sum(self):
        return _op("_Z3sumv", (), self.dtype, self)

    def sub_(self, other, alpha):
        _libraries.work("_Z3sgdv", KERNEL_NS // 10)

    def backward(self):
        order, seen = [], set()

        def visit(tensor):
            if id(tensor) in seen:
                return
            seen.add(id(tensor))
            for parent in tensor.node[1] if tensor.node else ():
                visit(parent)
            order.append(tensor)
        visit(self)
        grads = {id(self): Tensor(self.shape, self.dtype)}
        for tensor in reversed(order):
            grad = grads.pop(id(tensor), None)
            if grad is None:
                continue
            if tensor.node is None:
                tensor.grad = grad if tensor.requires_grad else None
                continue
            for parent, one in zip(tensor.node[1], tensor.node[0](grad)):
                if one is not None:
                    grads[id(parent)] = one


class Values(list):
    def all(self):
        return all(self)


def _op(kernel, shape, kind, *parents):
    out = Tensor(shape, kind)
    _libraries.work(kernel, KERNEL_NS)

    def backward(grad):
        for parent in parents:
            _libraries.work(kernel.replace("v", "v_bwd"), KERNEL_NS)
            yield Tensor(parent.shape, parent.dtype)
    if _grad[0] and any(p.requires_grad for p in parents):
        out.requires_grad, out.node = True, (backward, parents)
    return out


def relu(tensor):
    return _op("_Z4reluv", tensor.shape, tensor.dtype, tensor)


def _filled(shape, kind, values):
    out = Tensor(shape, kind)
    _libraries.call("cudaDeviceSynchronize")  # the memory may be another tensor's that is still in use
    host = out._host()
    for i, value in enumerate(values) if out.numel() else ():
        host[i] = value
    return out


def full(shape, value, device):
    kind = float32
    out = Tensor(shape, kind)
    _libraries.call("cudaDeviceSynchronize")
    if out.numel():
        one = bytes(kind.ctype(value))
        ctypes.memmove(out.ptr, one * out.numel(), out.bytes)
    return out


def zeros(count, dtype, device):
    return _filled((count,), dtype, [0] * count)


def tensor(values, dtype, device):
    return _filled((len(values),), dtype, values)


def randn(rows, columns, device, dtype):
    return Tensor((rows, columns), dtype)


from . import autograd, cuda, profiler  # noqa: E402
