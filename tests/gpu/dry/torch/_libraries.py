# SPDX-License-Identifier: Apache-2.0
"""The stand-in NCCL, CUDA and CUPTI (build/tests/standin/lib) by ctypes, looked up as if this program were linked with
them, so that a preloaded library comes first."""
import ctypes
from ctypes import byref, c_char, c_char_p, c_int, c_size_t, c_uint64, c_void_p

for _name in ("libcuda.so.1", "libcudart.so.13", "libcupti.so.13", "libnccl.so.2"):
    ctypes.CDLL(_name, mode=ctypes.RTLD_GLOBAL)
ALL = ctypes.CDLL(None)
if not hasattr(ALL, "standin_device_work"):
    raise ImportError("this torch is a stand-in, for a dry run on stand-in CUDA libraries only")


class UniqueId(ctypes.Structure):
    _fields_ = [("internal", c_char * 128)]


_PROTOTYPES = {
    "cudaMalloc": [c_void_p, c_size_t], "cudaSetDevice": [c_int], "cudaDeviceSynchronize": [],
    "cudaStreamCreateWithFlags": [c_void_p, c_int], "cudaStreamBeginCapture": [c_void_p, c_int],
    "cudaStreamEndCapture": [c_void_p, c_void_p], "cudaGraphInstantiate": [c_void_p, c_void_p, c_uint64],
    "cudaGraphLaunch": [c_void_p, c_void_p], "cudaGraphDestroy": [c_void_p], "cudaGraphExecDestroy": [c_void_p],
    "standin_device_work": [c_void_p, c_char_p, c_uint64],
    "ncclGetUniqueId": [c_void_p], "ncclGetVersion": [c_void_p], "ncclCommDestroy": [c_void_p],
    "ncclCommInitRank": [c_void_p, c_int, UniqueId, c_int], "ncclCommInitRankConfig": [c_void_p, c_int, UniqueId, c_int, c_void_p],
    "ncclCommGetAsyncError": [c_void_p, c_void_p], "ncclGroupStart": [], "ncclGroupEnd": [],
    "ncclSend": [c_void_p, c_size_t, c_int, c_int, c_void_p, c_void_p],
    "ncclRecv": [c_void_p, c_size_t, c_int, c_int, c_void_p, c_void_p],
    "ncclAlltoAll": [c_void_p, c_void_p, c_size_t, c_int, c_void_p, c_void_p],
    "ncclAllReduce": [c_void_p, c_void_p, c_size_t, c_int, c_int, c_void_p, c_void_p],
    "cuptiSubscribe": [c_void_p, c_void_p, c_void_p], "cuptiUnsubscribe": [c_void_p],
    "cuptiActivityRegisterCallbacks": [c_void_p, c_void_p], "cuptiActivityEnable": [c_int],
    "cuptiActivityDisable": [c_int], "cuptiActivityFlushAll": [c_int],
    "cuptiActivityGetNextRecord": [c_void_p, c_size_t, c_void_p],
}


def call(name, *arguments, accept=(0,)):
    """The result, or an exception that names the function."""
    function = getattr(ALL, name)
    function.argtypes, function.restype = _PROTOTYPES[name], c_int
    code = function(*arguments)
    if code not in accept:
        raise RuntimeError(f"{name}: error {code}")
    return code


def get(name, *arguments):
    """The pointer that a function writes to its first argument."""
    out = c_void_p()
    call(name, byref(out), *arguments)
    return out


stream = [None]  # the current one; None: the default stream


def work(kernel, ns):
    call("standin_device_work", stream[0], kernel.encode(), ns)
