"""Where the C heap keeps large blocks (glibc), once the holes are filled that imports have left in it."""

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes
from trainable.artifacts.malloc import LATER, MAPPED, keep_heap, large_apart

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.mallinfo2.restype = type("Facts", (ctypes.Structure,), {"_fields_": [
    (name, ctypes.c_size_t) for name in
    "arena ordblks smblks hblks hblkhd usmblks fsmblks used free keep".split()]})

def mapped(count):
    for _ in range(50):
        before = libc.mallinfo2().hblkhd
        assert libc.malloc(ctypes.c_size_t(count))
    return libc.mallinfo2().hblkhd - before

with large_apart():
    print(mapped(MAPPED + 1) > MAPPED, mapped(MAPPED // 2))
print(mapped(LATER + 1) > LATER, mapped(LATER // 2))
keep_heap()
for block in [ctypes.c_void_p(libc.malloc(ctypes.c_size_t(1 << 20))) for _ in range(16)]:
    libc.free(block)
print(libc.mallinfo2().keep > 15 << 20, mapped(1 << 20))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="another C library")
def test_large_blocks_are_apart_inside_and_only_larger_ones_after_and_a_heap_is_kept():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "0", "True", "0", "True", "0"]
