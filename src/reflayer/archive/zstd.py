"""zstd as Python has it from 3.14 on."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import CompressionParameter as CompressionParameter
    from compression.zstd import DecompressionParameter as DecompressionParameter
    from compression.zstd import ZstdDecompressor as ZstdDecompressor
    from compression.zstd import ZstdError as ZstdError
    from compression.zstd import ZstdFile as ZstdFile
else:
    from backports.zstd import CompressionParameter as CompressionParameter
    from backports.zstd import DecompressionParameter as DecompressionParameter
    from backports.zstd import ZstdDecompressor as ZstdDecompressor
    from backports.zstd import ZstdError as ZstdError
    from backports.zstd import ZstdFile as ZstdFile
