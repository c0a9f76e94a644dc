"""Images: what they are, where they come from and go to.

``transports.open_source(text)`` says what an image is called and where it is; its ``fetch`` brings
it into a ``BlobStore``, an OCI image layout, and returns the ``Image``: digests of all that is in
it. ``transports.open_destination(text)`` is the way out.

- ``model``: an image by its digests, and the documents that it is read from.
- ``content``: the blob store, and what comes into it.
- ``oci``, ``docker_archive``, ``tar``, ``registry``: the transports.
- ``build``: new layers, configs and manifests.
"""
