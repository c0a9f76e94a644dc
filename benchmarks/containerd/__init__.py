"""containerd with its snapshots in reflayer's service, beside its own native snapshotter."""
