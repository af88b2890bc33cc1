"""SQLite's own writes, told before they happen: its default VFS with a few methods replaced.

SQLite opens files through a table of C functions that anyone may register
(https://www.sqlite.org/vfs.html). The table here is a copy of the one in use whose functions that
change files first ask ``step``; everything else is SQLite's. It stays for the life of the process.
"""

import ctypes
import errno
import os
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from typing import Any

Step = Callable[[str, str, int, bytes], int]
"""Told what is about to happen (``create``, ``write``, ``truncate``, ``sync``, ``delete``) to which
file, at which offset, with which bytes. Gives 0 to let it happen, or the errno it fails with."""

_CREATE = 0x4
_FULL, _IO_WRITE, _IO_SYNC, _IO_TRUNCATE, _IO_DELETE, _CANNOT_OPEN = 13, 778, 1034, 1546, 2570, 14
"""Result codes, https://www.sqlite.org/rescode.html."""

_Open = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))
_Delete = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_Write = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Truncate = CFUNCTYPE(c_int, c_void_p, c_int64)
_Sync = CFUNCTYPE(c_int, c_void_p, c_int)


class _Vfs(Structure):
    pass


_Vfs._fields_ = [
    ("iVersion", c_int), ("szOsFile", c_int), ("mxPathname", c_int), ("pNext", c_void_p),
    ("zName", c_char_p), ("pAppData", c_void_p), ("xOpen", _Open), ("xDelete", _Delete),
    ("others", c_void_p * 14),
]  # fmt: skip


class _Methods(Structure):
    _fields_ = (
        ("iVersion", c_int), ("xClose", c_void_p), ("xRead", c_void_p), ("xWrite", _Write),
        ("xTruncate", _Truncate), ("xSync", _Sync), ("others", c_void_p * 13),
    )  # fmt: skip


class _File(Structure):
    _fields_ = (("methods", POINTER(_Methods)),)


_kept: list[Any] = []
"""What C holds pointers to."""


def library() -> ctypes.CDLL | None:
    """The SQLite that ``sqlite3`` uses; None where it is no library of its own."""
    import _sqlite3

    try:
        # What the module is linked to is loaded already, and found by the same name.
        found = ctypes.CDLL(_sqlite3.__file__)
        found.sqlite3_vfs_find.restype = POINTER(_Vfs)
    except (AttributeError, OSError):
        return None
    return found


def tell(step: Step) -> None:
    """Have ``step`` told of all that SQLite changes in this process from now on."""
    sqlite = library()
    assert sqlite is not None
    real = sqlite.sqlite3_vfs_find(None).contents
    told = _Vfs()
    ctypes.memmove(ctypes.byref(told), ctypes.byref(real), ctypes.sizeof(_Vfs))
    told.zName = b"told"
    paths: dict[int, str] = {}
    tables: dict[int, _Methods] = {}

    def failed(number: int, code: int) -> int:
        return _FULL if number == errno.ENOSPC and code == _IO_WRITE else code

    def open_(vfs: int, name: int | None, file: int, flags: int, out: Any) -> int:
        # SQLite keeps the pointer, so it must be passed on as it is.
        path = os.fsdecode(ctypes.string_at(name)) if name else ""
        if path and flags & _CREATE and not os.path.exists(path) and step("create", path, 0, b""):
            return _CANNOT_OPEN
        code: int = real.xOpen(ctypes.addressof(real), name, file, flags, out)
        methods = ctypes.cast(file, POINTER(_File)).contents
        if code == 0 and path and methods.methods:
            paths[file] = path
            address = ctypes.addressof(methods.methods.contents)
            methods.methods = ctypes.pointer(tables.get(address) or replaced(address))
        return code

    def replaced(address: int) -> _Methods:
        plain = _Methods.from_address(address)
        made = tables[address] = _Methods()
        ctypes.memmove(ctypes.byref(made), address, ctypes.sizeof(_Methods))

        def write(file: int, data: int, size: int, offset: int) -> int:
            if number := step("write", paths[file], offset, ctypes.string_at(data, size)):
                return failed(number, _IO_WRITE)
            return int(plain.xWrite(file, data, size, offset))

        def truncate(file: int, size: int) -> int:
            if step("truncate", paths[file], size, b""):
                return _IO_TRUNCATE
            return int(plain.xTruncate(file, size))

        def sync(file: int, flags: int) -> int:
            return _IO_SYNC if step("sync", paths[file], 0, b"") else int(plain.xSync(file, flags))

        made.xWrite, made.xTruncate, made.xSync = _Write(write), _Truncate(truncate), _Sync(sync)
        _kept.extend([made, made.xWrite, made.xTruncate, made.xSync])
        return made

    def delete(vfs: int, name: bytes, sync_directory: int) -> int:
        if os.path.exists(name) and step("delete", os.fsdecode(name), 0, b""):
            return _IO_DELETE
        return int(real.xDelete(ctypes.addressof(real), name, sync_directory))

    told.xOpen, told.xDelete = _Open(open_), _Delete(delete)
    _kept.extend([sqlite, real, told, told.xOpen, told.xDelete, tables])
    assert sqlite.sqlite3_vfs_register(ctypes.byref(told), 1) == 0
