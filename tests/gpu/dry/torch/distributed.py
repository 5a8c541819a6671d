# SPDX-License-Identifier: Apache-2.0
"""Stand-in for torch.distributed, with the NCCL calls that PyTorch 2.11 makes: ncclAlltoAll for equal splits, a group of
sends and receives, without empty ones, for given split sizes. The ranks meet in a file."""
import ctypes
import os
import pathlib
import tempfile
import time

from . import _libraries, cuda, float32, full

_comm = _rank = _size = None


def init_process_group(backend, rank, world_size):
    global _comm, _rank, _size
    _rank, _size = rank, world_size
    unique = _libraries.UniqueId()
    meeting = pathlib.Path(tempfile.gettempdir()) / f"skewscope-dry-{os.environ['MASTER_PORT']}"
    if rank == 0:
        _libraries.call("ncclGetUniqueId", ctypes.byref(unique))
        part = meeting.with_suffix(".part")
        part.write_bytes(bytes(unique))
        part.rename(meeting)
    else:
        end = time.monotonic() + 60
        while not meeting.exists():
            if time.monotonic() > end:
                raise RuntimeError("rank 0 did not come")
            time.sleep(0.01)
        ctypes.memmove(ctypes.byref(unique), meeting.read_bytes(), 128)
    _comm = ctypes.c_void_p()
    if os.environ.get("TORCH_NCCL_USE_COMM_NONBLOCKING") == "1":
        config = _Config(ctypes.sizeof(_Config), 0xcafebeef, 22809, 0, *[-2 ** 31] * 3, None, -2 ** 31)
        _nccl("ncclCommInitRankConfig", ctypes.byref(_comm), world_size, unique, rank, ctypes.byref(config))
    else:
        _nccl("ncclCommInitRank", ctypes.byref(_comm), world_size, unique, rank)
    if rank == 0:
        meeting.unlink()


class _Config(ctypes.Structure):
    """The head of ncclConfig_t: what is behind it has defaults."""
    _fields_ = [("size", ctypes.c_size_t), ("magic", ctypes.c_uint), ("version", ctypes.c_uint), ("blocking", ctypes.c_int),
                ("cga", ctypes.c_int), ("least", ctypes.c_int), ("most", ctypes.c_int), ("net", ctypes.c_char_p), ("split", ctypes.c_int)]


def _nccl(name, *arguments):
    """As PyTorch: a call that is in progress is waited for, by asking the communicator."""
    if _libraries.call(name, *arguments, accept=(0, 7)) == 7:
        state = ctypes.c_int(7)
        while state.value == 7:
            _libraries.call("ncclCommGetAsyncError", _comm, ctypes.byref(state))
        if state.value != 0:
            raise RuntimeError(f"{name}: error {state.value}")


def get_rank():
    return _rank


def get_world_size():
    return _size


def barrier(device_ids):
    one = full((1,), 1.0, device="cuda")
    _nccl("ncclAllReduce", one.ptr, one.ptr, 1, float32.nccl, 0, _comm, _libraries.stream[0])
    cuda.synchronize()


def destroy_process_group():
    _libraries.call("ncclCommDestroy", _comm)


def all_to_all_single(output, input, output_split_sizes=None, input_split_sizes=None):
    kind, stream = input.dtype, _libraries.stream[0]
    if not output_split_sizes and not input_split_sizes:
        _nccl("ncclAlltoAll", input.ptr, output.ptr, input.numel() // _size, kind.nccl, _comm, stream)
        return
    row = input.numel() // input.shape[0]
    sent = received = 0
    _libraries.call("ncclGroupStart")
    for peer in range(_size):
        out, into = input_split_sizes[peer] * row, output_split_sizes[peer] * row
        if out:
            _nccl("ncclSend", input.ptr + sent * kind.itemsize, out, kind.nccl, peer, _comm, stream)
        if into:
            _nccl("ncclRecv", output.ptr + received * kind.itemsize, into, kind.nccl, peer, _comm, stream)
        sent, received = sent + out, received + into
    _nccl("ncclGroupEnd")
