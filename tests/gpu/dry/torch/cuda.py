# SPDX-License-Identifier: Apache-2.0
"""Stand-in for torch.cuda: see __init__.py."""
import ctypes

from . import _libraries


def is_available():
    return True


def set_device(index):
    _libraries.call("cudaSetDevice", index)


def synchronize():
    _libraries.call("cudaDeviceSynchronize")


def get_device_name(index):
    return "stand-in GPU (none)"


class nccl:
    @staticmethod
    def version():
        number = ctypes.c_int()
        _libraries.call("ncclGetVersion", ctypes.byref(number))
        return number.value // 10000, number.value // 100 % 100, number.value % 100


class CUDAGraph:
    exec = None

    def reset(self):
        _libraries.call("cudaGraphExecDestroy", self.exec)

    def replay(self):
        _libraries.call("cudaGraphLaunch", self.exec, _libraries.stream[0])


class graph:
    def __init__(self, cuda_graph):
        self.graph, self.stream = cuda_graph, _libraries.get("cudaStreamCreateWithFlags", 1)

    def __enter__(self):
        _libraries.stream[0] = self.stream
        _libraries.call("cudaStreamBeginCapture", self.stream, 0)  # cudaStreamCaptureModeGlobal

    def __exit__(self, *failed):
        made = ctypes.c_void_p()
        _libraries.call("cudaStreamEndCapture", self.stream, ctypes.byref(made))
        _libraries.stream[0] = None
        self.graph.exec = _libraries.get("cudaGraphInstantiate", made, 0)
        _libraries.call("cudaGraphDestroy", made)
