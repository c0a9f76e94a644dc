"""Blobs that are coming in, between several who fetch the same."""

from __future__ import annotations

import os
from pathlib import Path

from reflayer.images.content.blob_store import BlobStore
from reflayer.images.content.partial_download import (
    commit_partial,
    complete,
    open_partial,
    partial_path,
)
from reflayer.images.model.descriptor import digest_bytes

DATA = b"all of it"
DIGEST = digest_bytes(DATA)


def test_what_a_third_one_has_begun_does_not_take_the_place_of_a_blob(tmp_path: Path) -> None:
    content = BlobStore(tmp_path / "content")
    fd = open_partial(content, DIGEST)
    os.write(fd, DATA)
    complete(fd)
    commit_partial(content, DIGEST)
    os.close(fd)
    begun = open_partial(content, DIGEST)
    os.write(begun, DATA[:1])
    commit_partial(content, DIGEST)  # by the second one, who had the first one's file
    os.close(begun)
    assert Path(content.path(DIGEST)).read_bytes() == DATA
    assert not os.path.exists(partial_path(content, DIGEST))
