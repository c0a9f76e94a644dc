"""Trees that are hard to copy, by name: each is a function that fills an empty folder."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Make = Callable[[bytes], None]

CASES: dict[str, Make] = {}
"""The cases: what fills a folder, by name."""

BTRFS_CASES: dict[str, Make] = {}
"""Those that only btrfs can hold."""

MOST_ID = 2**32 - 2
DEPTH = 3000
WIDE = 3000


def _case(make: Make) -> Make:
    CASES[make.__name__] = make
    return make


def _btrfs_case(make: Make) -> Make:
    BTRFS_CASES[make.__name__] = make
    return make


def build(folder: bytes, cases: dict[str, Make]) -> None:
    """Make each case in a folder of its name in ``folder``."""
    for name, make in cases.items():
        case = os.path.join(folder, name.encode())
        os.mkdir(case)
        make(case)


def write(path: bytes, content: bytes = b"content") -> None:
    """Make a regular file."""
    with open(path, "xb") as file:
        file.write(content)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """The value of an ACL's attribute (linux/posix_acl_xattr.h): tags, permissions and ids."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NOBODY = 0xFFFFFFFF  # the id of entries that name none
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
SOME_ACL = acl(
    (USER_OBJ, 7, NOBODY),
    (USER, 6, 1234),
    (GROUP_OBJ, 5, NOBODY),
    (GROUP, 7, 4321),
    (MASK, 4, NOBODY),
    (OTHER, 1, NOBODY),
)
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # capabilities(7), revision 2


@_case
def every_byte_in_names(folder: bytes) -> None:
    for byte in set(range(1, 256)) - set(b"/."):
        write(folder + b"/" + bytes([byte]))
        os.mkdir(folder + b"/folder" + bytes([byte]))
        os.symlink(bytes([byte]), folder + b"/link" + bytes([byte]))


@_case
def names_of_255_bytes(folder: bytes) -> None:
    for name in (b"n" * 255, b"\xff" * 255, "é".encode() * 127, b"\n" * 255):
        write(folder + b"/" + name)
        os.mkdir(folder + b"/d" + name[:254])
        write(folder + b"/d" + name[:254] + b"/" + name)


@_case
def names_that_programs_trip_over(folder: bytes) -> None:
    for name in (
        *(b"-rf", b" ", b"\n", b"a\nb", b"...", b"..a", b"~", b"*", b"$(id)", b"'", b'"', b"\\"),
        *(b"trailing ", b" leading", b"trailing.", b"CASE", b"case", b"Case", b"%s", b"\x1b[31m"),
        *("e\u0301".encode(), "\u00e9".encode(), b"\xc3", b"\xed\xb2\x80", b"\xf4\x90\x80\x80"),
        *(b".wh.name", b".wh..wh..opq", b".reflayer-links-0", b"proc", b"lost+found"),
    ):
        write(folder + b"/" + name)


@_case
def folders_nested_thousands_deep(folder: bytes) -> None:
    fd = os.open(folder, os.O_RDONLY)
    for level in range(DEPTH):
        os.mkdir("d", 0o751, dir_fd=fd)
        above, fd = fd, os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(above)
        if not level % 500 or level == DEPTH - 1:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, 0o640, dir_fd=fd))
            os.link("file", "twin", src_dir_fd=fd, dst_dir_fd=fd)
            os.symlink("file", "link", dir_fd=fd)
            os.mkfifo("fifo", dir_fd=fd)
            os.mkdir("beside", dir_fd=fd)
    os.close(fd)


@_case
def a_folder_of_thousands_of_names(folder: bytes) -> None:
    fd = os.open(folder, os.O_RDONLY)
    for number in range(WIDE):
        if number % 50 == 1:
            os.mkdir(f"folder {number}", dir_fd=fd)
        elif number % 50 == 2:
            os.symlink("nowhere", f"link {number}", dir_fd=fd)
        elif number % 50 == 3:
            last = f"file {number - 3}"
            os.link(last, f"twin {number}", src_dir_fd=fd, dst_dir_fd=fd)
        else:
            os.close(os.open(f"file {number}", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd))
    os.close(fd)


@_case
def holes(folder: bytes) -> None:
    block = b"x" * 65536
    for name, at, size in (
        (b"start", 1 << 20, (1 << 20) + 65536),
        (b"middle", 0, 1 << 20),
        (b"end", 0, 1 << 20),
        (b"both", 1 << 20, 3 << 20),
        (b"odd", 65536, 200_001),
    ):
        with open(folder + b"/" + name, "xb") as file:
            file.truncate(size)
            file.seek(at)
            file.write(block)
            if name == b"middle":
                file.seek(size - len(block))
                file.write(block)


@_case
def a_file_of_many_holes(folder: bytes) -> None:
    with open(folder + b"/file", "xb") as file:
        file.truncate(200 * 131072)
        for number in range(200):
            file.seek(number * 131072)
            file.write(b"%d" % number * 100)


@_case
def a_tebibyte_of_nothing(folder: bytes) -> None:
    write(folder + b"/all hole", b"")
    os.truncate(folder + b"/all hole", 1 << 40)
    with open(folder + b"/last byte", "xb") as file:
        file.seek((1 << 40) - 1)
        file.write(b"x")


@_case
def blocks_that_were_never_written(folder: bytes) -> None:
    with open(folder + b"/never written", "xb") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
    with open(folder + b"/partly never written", "xb") as file:
        file.write(b"x" * 65536)
        os.posix_fallocate(file.fileno(), 65536, 1 << 20)


@_case
def small_files(folder: bytes) -> None:
    for size in (0, 1, 2, 4095, 4096, 4097, 65536, 1_000_003):
        write(folder + b"/%d" % size, os.urandom(size))


@_case
def hard_links_across_folders(folder: bytes) -> None:
    for name in (b"a", b"b", b"b/c", b"z"):
        os.mkdir(folder + b"/" + name)
    write(folder + b"/b/c/first")
    for name in (b"a/twin", b"z/twin", b"twin", b"b/c/twin", b"b/twin"):
        os.link(folder + b"/b/c/first", folder + b"/" + name)
    write(folder + b"/a/other")
    os.link(folder + b"/a/other", folder + b"/z/other")


@_case
def hard_links_of_every_type(folder: bytes) -> None:
    for name in (b"before", b"here", b"later"):
        os.mkdir(folder + b"/" + name)
    here = folder + b"/here/"
    write(here + b"file")
    write(here + b"empty", b"")
    os.symlink(b"target", here + b"link")
    os.mkfifo(here + b"fifo")
    _socket(here + b"socket")
    os.mknod(here + b"char", stat.S_IFCHR | 0o640, os.makedev(1, 3))
    os.mknod(here + b"whiteout", stat.S_IFCHR, os.makedev(0, 0))
    os.mknod(here + b"block", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    for name in os.listdir(here):
        for other in (b"before", b"later"):
            os.link(here + name, folder + b"/" + other + b"/" + name, follow_symlinks=False)


@_case
def hard_links_with_all_metadata(folder: bytes) -> None:
    write(folder + b"/file")
    os.link(folder + b"/file", folder + b"/twin")
    os.chown(folder + b"/file", 12, 34)
    os.chmod(folder + b"/file", 0o6711)
    os.setxattr(folder + b"/file", "user.name", b"value")
    os.utime(folder + b"/file", ns=(1, 2))


@_case
def symbolic_links(folder: bytes) -> None:
    os.mkdir(folder + b"/folder")
    for number, target in enumerate(
        (
            b"nowhere",
            b"/etc/passwd",
            b"..",
            b".",
            b"folder",
            b"folder/",
            b"5",
            b"\xff\n",
            b"/",
            b" ",
        )
    ):
        os.symlink(target, folder + b"/%d" % number)
    longest = folder + b"/longest"
    for length in (4095, 1023):  # XFS stops at 1023
        try:
            os.symlink(b"t" * length, longest)
            break
        except OSError:
            continue
    assert os.path.islink(longest)


@_case
def sockets(folder: bytes) -> None:
    _socket(folder + b"/socket")
    os.chmod(folder + b"/socket", 0o1717)
    os.chown(folder + b"/socket", 5, 6)


@_case
def fifos(folder: bytes) -> None:
    os.mkfifo(folder + b"/fifo")
    os.chmod(folder + b"/fifo", 0o622)
    os.chown(folder + b"/fifo", 5, 6)
    os.mkfifo(folder + b"/none", 0)


@_case
def devices(folder: bytes) -> None:
    numbers = ((0, 0), (1, 3), (5, 255), (511, 262143), (0, 1), (1, 0), (259, 70000))
    for major, minor in numbers:
        for kind, name in ((stat.S_IFCHR, b"char"), (stat.S_IFBLK, b"block")):
            path = folder + b"/%s %d:%d" % (name, major, minor)
            os.mknod(path, kind | 0o640, os.makedev(major, minor))
            os.chown(path, 0, 6)


@_case
def setuid_setgid_and_sticky(folder: bytes) -> None:
    for bits in range(8):
        for owner in (0, 1000):
            file, inner = folder + b"/f%o-%d" % (bits, owner), folder + b"/d%o-%d" % (bits, owner)
            write(file)
            os.mkdir(inner)
            write(inner + b"/inside")
            os.mkdir(inner + b"/folder inside")
            for path in (file, inner):
                os.chown(path, owner, owner)
                os.chmod(path, bits << 9 | 0o751)
            os.chmod(inner + b"/folder inside", 0o755)


@_case
def no_permission_bits(folder: bytes) -> None:
    os.makedirs(folder + b"/shut/inside")
    write(folder + b"/shut/inside/file")
    write(folder + b"/shut/file")
    for path in (b"/shut/inside/file", b"/shut/inside", b"/shut/file", b"/shut"):
        os.chmod(folder + path, 0)


@_case
def every_mode(folder: bytes) -> None:
    for mode in range(0, 0o1000, 0o11):
        write(folder + b"/f%o" % mode)
        os.chmod(folder + b"/f%o" % mode, mode)
        os.mkdir(folder + b"/d%o" % mode)
        os.chmod(folder + b"/d%o" % mode, mode)


@_case
def owners_up_to_the_largest(folder: bytes) -> None:
    for uid, gid in ((0, 1), (1, 0), (65534, 65534), (65536, 2**31), (MOST_ID, MOST_ID)):
        write(folder + b"/%d-%d" % (uid, gid))
        os.mkdir(folder + b"/d%d-%d" % (uid, gid))
        os.symlink(b"x", folder + b"/l%d-%d" % (uid, gid))
        os.mkfifo(folder + b"/p%d-%d" % (uid, gid))
        for kind in (b"", b"d", b"l", b"p"):
            os.chown(folder + b"/%s%d-%d" % (kind, uid, gid), uid, gid, follow_symlinks=False)


@_case
def attributes(folder: bytes) -> None:
    write(folder + b"/file")
    os.mkdir(folder + b"/folder")
    for path in (folder + b"/file", folder + b"/folder"):
        os.setxattr(path, "user.name", b"value")
        os.setxattr(path, "user.empty", b"")
        os.setxattr(path, "user.binary", bytes(range(256)))
        os.setxattr(path, b"user.a=b %41\xff\n\xc3\xa9", b"12 path=/etc/passwd\n")
        os.setxattr(path, "trusted.name", b"value")
        os.setxattr(path, "security.name", b"value")
    write(folder + b"/read only")
    os.setxattr(folder + b"/read only", "user.name", b"value")
    os.chmod(folder + b"/read only", 0o444)


@_case
def many_attributes(folder: bytes) -> None:
    write(folder + b"/file")
    os.mkdir(folder + b"/folder")
    for path in (folder + b"/file", folder + b"/folder"):
        for number in range(40):
            os.setxattr(path, f"user.{number:03}", b"%d" % number * 5)


@_case
def an_attribute_as_large_as_may_be(folder: bytes) -> None:
    write(folder + b"/file")
    for size in (65536, 60000, 16000, 4000, 3500):
        try:
            os.setxattr(folder + b"/file", "user.large", os.urandom(size))
            return
        except OSError:
            continue
    raise AssertionError("no large attribute could be set")


@_case
def attributes_of_links_and_special_files(folder: bytes) -> None:
    os.symlink(b"nowhere", folder + b"/link")
    os.mkfifo(folder + b"/fifo")
    _socket(folder + b"/socket")
    os.mknod(folder + b"/char", stat.S_IFCHR, os.makedev(0, 0))
    os.mknod(folder + b"/block", stat.S_IFBLK, os.makedev(7, 0))
    for name in os.listdir(folder):
        os.setxattr(folder + b"/" + name, "trusted.name", b"value\0", follow_symlinks=False)
        if name not in (b"link", b"folder"):
            os.setxattr(folder + b"/" + name, ACCESS, SOME_ACL)


@_case
def capabilities_of_a_file_that_root_does_not_own(folder: bytes) -> None:
    write(folder + b"/ping")
    os.chown(folder + b"/ping", 1000, 1000)
    os.chmod(folder + b"/ping", 0o755)
    os.setxattr(folder + b"/ping", "security.capability", CAPABILITY)


@_case
def access_control_lists(folder: bytes) -> None:
    write(folder + b"/file")
    os.mkdir(folder + b"/folder")
    for path in (folder + b"/file", folder + b"/folder"):
        os.setxattr(path, ACCESS, SOME_ACL)
        os.chown(path, 1000, 1000)
    write(folder + b"/masked")
    os.setxattr(folder + b"/masked", ACCESS, SOME_ACL)
    os.chmod(folder + b"/masked", 0o6700)  # the mask goes with the group's bits


@_case
def default_lists_that_nothing_inside_has(folder: bytes) -> None:
    os.makedirs(folder + b"/folder/inside/deeper")
    write(folder + b"/folder/file")
    os.mkfifo(folder + b"/folder/fifo")
    write(folder + b"/folder/inside/file")
    os.setxattr(folder + b"/folder/inside", DEFAULT, SOME_ACL)
    os.setxattr(folder + b"/folder", DEFAULT, SOME_ACL)


@_case
def a_setgid_folder_that_gives_nothing_down(folder: bytes) -> None:
    os.makedirs(folder + b"/folder/inside")
    write(folder + b"/folder/file")
    os.chown(folder + b"/folder", 0, 1000)
    os.chmod(folder + b"/folder", 0o2775)


@_case
def times(folder: bytes) -> None:
    write(folder + b"/file")
    os.mkdir(folder + b"/folder")
    write(folder + b"/folder/file")
    os.mkfifo(folder + b"/fifo")
    _socket(folder + b"/socket")
    os.mknod(folder + b"/char", stat.S_IFCHR, os.makedev(0, 0))
    pairs = ((-1, 1), (0, 0), (4_102_444_800_123_456_789, -1_000_000_001), (1, 999_999_999))
    for number, name in enumerate(sorted(os.listdir(folder))):
        os.utime(folder + b"/" + name, ns=pairs[number % len(pairs)])
    for number, pair in enumerate(pairs):
        write(folder + b"/file %d" % number)
        os.utime(folder + b"/file %d" % number, ns=pair)


@_case
def times_of_folders_within_folders(folder: bytes) -> None:
    path = folder
    for level in range(70):
        path += b"/d%d" % level
        os.mkdir(path)
        write(path + b"/file")
        os.symlink(b"file", path + b"/link")
    while path != folder:
        os.utime(path, ns=(len(path) * 1_000_000_007, len(path) * 3_000_000_001))
        path = os.path.dirname(path)


@_btrfs_case
def files_that_are_not_copied_on_write(folder: bytes) -> None:
    for number in range(12):
        path = folder + b"/nocow %d" % number
        write(path, b"")
        with open(path, "r+b") as file:
            no_cow(file.fileno())
            file.write(os.urandom(10_000))
    write(folder + b"/cow", os.urandom(10_000))


@_btrfs_case
def a_subvolume_within(folder: bytes) -> None:
    subprocess.run(["btrfs", "-q", "subvolume", "create", folder + b"/nested"], check=False)
    os.mkdir(folder + b"/nested/folder")
    write(folder + b"/nested/folder/file", os.urandom(10_000))
    os.link(folder + b"/nested/folder/file", folder + b"/nested/twin")


def no_cow(fd: int) -> None:
    """Set an empty file's or a folder's flag C (ioctl_iflags(2): FS_NOCOW_FL)."""
    flags = struct.unpack("l", fcntl.ioctl(fd, 0x80086601, bytes(8)))[0]
    fcntl.ioctl(fd, 0x40086602, struct.pack("l", flags | 0x00800000))


def _socket(path: bytes) -> None:
    with _inside(os.path.dirname(path)), socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.basename(path))  # its path may be no longer than 107 bytes


@contextmanager
def _inside(folder: bytes) -> Iterator[None]:
    before = os.open(".", os.O_RDONLY)
    os.chdir(folder)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)
