"""Commands run in a container's root: what the image says of them, and by which program.

A bundle of the OCI runtime specification says all (``spec.py``); an OCI runtime, bubblewrap, or
``namespaces.py`` runs it (``runtimes.py``). This is no container engine: there are no networks, no
daemon and no logs, and a container runs as long as the process that runs it.

In a store's folder, ``running/`` has a folder for each command that runs: the bundle, and
``state.json``, which says what has to be undone. Each is claimed (``reflayer.workers.lock``) by the
process that runs it; what a dead one left is ended and undone by the next that runs something, or
by ``reflayer prune``.
"""
