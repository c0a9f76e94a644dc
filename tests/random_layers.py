"""Random layers, each of which does something to what lies below: as lists of entries."""

from __future__ import annotations

import os
from random import Random

from tests.archive.tars import Entry, entry, folder, xattr

_NAMES = ("a", "b", "c", "d", "e", "ümlaut", "n" * 120)
_MODES = (0o644, 0o755, 0o600, 0o4711, 0o2750, 0o1777)
_TARGETS = ("a", "../b", "/a/b", "/", "nowhere", "../../../../etc", ".")
_ATTRIBUTES = (
    ("user.text", "text"),
    ("security.capability", "\x01\0\0\x02\0\x04" + "\0" * 14),
    ("trusted.overlay.opaque", "y"),
    ("user.overlay.opaque", "y"),
    ("trusted.overlay.overlay.opaque", "y"),
    ("user.overlay.reflayer.implied", "y"),
    ("trusted.overlay.reflayer.device", "y"),
    ("trusted.overlay.redirect", "/a"),
)
Model = dict[str, str]  # what a path is


def random_layers(random: Random, count: int, *, any_order: bool = True) -> list[list[Entry]]:
    """So many layers, the lowest first.

    Some have whiteouts of what is not there, folders without entries, names of which a part is a
    link, and, where they may have ``any_order``, what hides lower layers after what is new.
    """
    there: Model = {"": "folder"}
    layers = []
    for number in range(count):
        layer = _Layer(random, there, is_lowest=number == 0)
        for _ in range(random.randint(1, 24 if number == 0 else 10)):
            layer.add()
        if any_order and random.random() < 0.3:
            layer.mix()
        layers.append(layer.entries)
    return layers


class _Layer:
    def __init__(self, random: Random, there: Model, *, is_lowest: bool) -> None:
        self.entries: list[Entry] = []
        self._random = random
        self._there = there
        self._new: set[str] = set()
        self._ways = [self._file, self._file, self._folder, self._folder, self._special, self._link]
        if not is_lowest:
            hiding = [self._delete, self._delete, self._opaque, self._change, self._through]
            self._ways += [*hiding, self._replace]
        if random.random() < 0.5:
            self.entries.append(folder("./", mode=0o755, mtime=self._time()))

    def add(self) -> None:
        """Add one thing, which may be several entries."""
        self._random.choice(self._ways)()

    def mix(self) -> None:
        """Let whiteouts come anywhere."""
        hiding = [one for one in self.entries if "/.wh." in f"/{one[0].name}"]
        rest = [one for one in self.entries if one not in hiding]
        for one in hiding:
            rest.insert(self._random.randint(0, len(rest)), one)
        self.entries = rest

    def _file(self) -> None:
        data = self._random.randbytes(self._random.choice((0, 1, 700, 5000)))
        self._put(self._path(), "file", data)

    def _folder(self) -> None:
        self._put(self._path(), "folder")

    def _special(self) -> None:
        path, kind = (
            self._path(),
            self._random.choice(("symlink", "symlink", "fifo", "char", "block")),
        )
        device = self._random.choice(((0, 0), (1, 3), (259, 70_000)))
        target = self._random.choice(_TARGETS) if kind == "symlink" else ""
        self._put(path, kind, target=target, device=device)

    def _link(self) -> None:
        files = [path for path, kind in self._there.items() if kind not in ("folder", "link")]
        if files:
            target, path = self._random.choice(files), self._path()
            if path != target and not target.startswith(f"{path}/"):
                self._put(path, self._there[target], target=target, is_link=True)

    def _delete(self) -> None:
        path = self._lower() if self._random.random() < 0.9 else self._path()
        if path and path not in self._new:
            above, _, name = path.rpartition("/")
            self.entries.append(entry(f"{above}/.wh.{name}".lstrip("/")))
            self._forget(path, but=self._new)

    def _opaque(self) -> None:
        folders = [path for path, kind in self._there.items() if kind == "folder" and path]
        if folders:
            path = self._random.choice(folders)
            if self._random.random() < 0.7:
                self._put(path, "folder")
            self.entries.append(entry(f"{path}/.wh..wh..opq"))
            self._forget(f"{path}/", but=self._new)

    def _change(self) -> None:
        path = self._lower()
        if path and self._there[path] in ("file", "folder"):
            self._put(path, self._there[path], b"changed")

    def _replace(self) -> None:
        path = self._lower()
        if path and path not in self._new:
            self._put(path, self._random.choice(("file", "folder", "symlink", "fifo")), target="a")

    def _through(self) -> None:
        """A name in what a link leads to, perhaps."""
        links = [path for path, kind in self._there.items() if kind == "symlink"]
        if links:
            path = f"{self._random.choice(links)}/{self._random.choice(_NAMES)}"
            self.entries.append(self._entry(path, "file", b"through"))

    def _path(self) -> str:
        """That of something new, or not so new."""
        folders = [path for path, kind in self._there.items() if kind == "folder"]
        above = self._random.choice(folders)
        if self._random.random() < 0.1:
            above = f"{above}/{self._random.choice(_NAMES)}"  # perhaps without an entry
        return f"{above}/{self._random.choice(_NAMES)}".lstrip("/")

    def _lower(self) -> str:
        return self._random.choice(list(self._there))

    def _put(
        self,
        path: str,
        kind: str,
        data: bytes = b"",
        *,
        target: str = "",
        device: tuple[int, int] = (0, 0),
        is_link: bool = False,
    ) -> None:
        above = path.rpartition("/")[0]
        while above:
            if self._there.get(above, "folder") != "folder":
                return
            self._there.setdefault(above, "folder")
            above = above.rpartition("/")[0]
        if kind != "folder":
            if any(one.startswith(f"{path}/") for one in self._new):
                return
            self._forget(path)
        self._there[path] = kind
        self._new.add(path)
        data = data if kind == "file" and not is_link else b""
        told = "link" if is_link else kind
        self.entries.append(self._entry(path, told, data, target=target, device=device))

    def _entry(
        self,
        path: str,
        kind: str,
        data: bytes = b"",
        *,
        target: str = "",
        device: tuple[int, int] = (0, 0),
    ) -> Entry:
        attributes = {}
        if kind in ("file", "folder") and self._random.random() < 0.25:
            attributes = dict(self._random.sample(_ATTRIBUTES, 2))
            if kind == "folder":
                attributes.pop("security.capability", None)
        uid, gid = (self._random.choice((0, 0, 1000)) for _ in range(2))
        return entry(
            path,
            data,
            kind=kind,
            target=target,
            device=device,
            mode=self._random.choice(_MODES),
            uid=uid if os.geteuid() == 0 else os.geteuid(),
            gid=gid if os.geteuid() == 0 else os.getegid(),
            pax={
                "mtime": f"{self._time()}.{self._random.randrange(10**9):09}",
                **{xattr(name): value for name, value in attributes.items()},
            },
        )

    def _time(self) -> int:
        return self._random.randrange(1, 1_700_000_000)

    def _forget(self, path: str, but: set[str] | None = None) -> None:
        for one in list(self._there):
            gone = one == path or one.startswith(path if path.endswith("/") else f"{path}/")
            if gone and one not in (but or ()):
                del self._there[one]
