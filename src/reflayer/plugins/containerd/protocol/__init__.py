"""containerd's service as messages: two ``.proto`` files, and what is generated from them.

With grpcio-tools 1.76.0, whose output runs with protobuf from 6.31 on::

    python -m grpc_tools.protoc -I src --python_out=src --pyi_out=src \\
        src/reflayer/plugins/containerd/protocol/*.proto

A test tells when what is generated no longer says the same as the ``.proto`` files.
"""
