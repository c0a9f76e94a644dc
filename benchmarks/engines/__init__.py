"""The same commands on reflayer and on an engine's own snapshotter, of whatever version."""
