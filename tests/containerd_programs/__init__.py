"""Debian's containerd with ``reflayer serve containerd`` as its snapshotter."""
