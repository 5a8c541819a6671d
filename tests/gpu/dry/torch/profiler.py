# SPDX-License-Identifier: Apache-2.0
"""Stand-in for torch.profiler: subscribes to the stand-in CUPTI as Kineto does, and writes its kernels and calls in the
same form."""
import ctypes
import json

from . import _libraries

KERNELS, RUNTIME, DRIVER = 10, 5, 4  # CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, RUNTIME, DRIVER
BUFFER = 1 << 20


class ProfilerActivity:
    CPU, CUDA = "CPU", "CUDA"


def _at(record, offset, kind):
    return kind.from_address(record + offset).value


class profile:
    def __init__(self, activities):
        self.events, self.buffers = [], {}
        self.on_event = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p)(lambda *_: None)
        self.lend = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_size_t),
                                     ctypes.POINTER(ctypes.c_size_t))(self._lend)
        self.take = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t,
                                     ctypes.c_size_t)(self._take)

    def _lend(self, buffer, size, most):
        made = ctypes.create_string_buffer(BUFFER)
        self.buffers[ctypes.addressof(made)] = made
        buffer[0], size[0], most[0] = ctypes.addressof(made), BUFFER, 0

    def _take(self, context, stream, buffer, size, valid):
        record = ctypes.c_void_p()
        function = _libraries.ALL.cuptiActivityGetNextRecord
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
        while function(buffer, valid, ctypes.byref(record)) == 0:
            self._record(record.value)
        self.buffers.pop(buffer, None)

    def _record(self, record):
        kind = _at(record, 0, ctypes.c_int)
        if kind == KERNELS:
            begin, end = _at(record, 16, ctypes.c_uint64), _at(record, 24, ctypes.c_uint64)
            self.events.append({"ph": "X", "cat": "kernel", "name": _at(record, 104, ctypes.c_char_p).decode(),
                                "ts": begin / 1000, "dur": (end - begin) / 1000,
                                "args": {"stream": _at(record, 48, ctypes.c_uint32),
                                         "correlation": _at(record, 92, ctypes.c_uint32)}})
        elif kind in (RUNTIME, DRIVER):
            begin, end = _at(record, 8, ctypes.c_uint64), _at(record, 16, ctypes.c_uint64)
            self.events.append({"ph": "X", "cat": "cuda_runtime" if kind == RUNTIME else "cuda_driver",
                                "name": str(_at(record, 4, ctypes.c_uint32)), "ts": begin / 1000, "dur": (end - begin) / 1000,
                                "args": {"correlation": _at(record, 32, ctypes.c_uint32)}})

    def __enter__(self):
        self.handle = _libraries.get("cuptiSubscribe", self.on_event, None)
        _libraries.call("cuptiActivityRegisterCallbacks", self.lend, self.take)
        for kind in (KERNELS, RUNTIME, DRIVER):
            _libraries.call("cuptiActivityEnable", kind)
        return self

    def __exit__(self, *failed):
        _libraries.call("cudaDeviceSynchronize")
        _libraries.call("cuptiActivityFlushAll", 1)
        for kind in (KERNELS, RUNTIME, DRIVER):
            _libraries.call("cuptiActivityDisable", kind)
        _libraries.call("cuptiUnsubscribe", self.handle)

    def export_chrome_trace(self, path):
        with open(path, "w", encoding="utf-8") as f:
            json.dump({"schemaVersion": 1, "traceEvents": self.events}, f)
