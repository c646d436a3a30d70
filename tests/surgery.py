"""Functions that take files apart and reassemble them with changes that the library would never write."""

from __future__ import annotations

import json
from typing import Any


def parts(content: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """The index of a file, its header, and the bytes of its arrays."""
    end = 8 + int.from_bytes(content[:8], "little")
    index = json.loads(content[8:end])
    return index, json.loads(index["__metadata__"]["header"]), content[end:]


def assembled(index: dict[str, Any], header: Any, data: bytes) -> bytes:
    """The file of these parts; the inverse of `parts`, apart from padding."""
    index = {**index, "__metadata__": {**index["__metadata__"], "header": json.dumps(header)}}
    return raw(json.dumps(index).encode(), data)


def raw(index: bytes, data: bytes = b"") -> bytes:
    """A file with this index, be it JSON or not."""
    return len(index).to_bytes(8, "little") + index + data


def with_header(content: bytes, **changes: Any) -> bytes:
    """The file with other entries in its header; those that are `...` are removed."""
    index, header, data = parts(content)
    header |= changes
    return assembled(index, {key: value for key, value in header.items() if value is not ...}, data)


def with_entry(content: bytes, name: str, **changes: Any) -> bytes:
    """The file with another dtype, shape or data_offsets of an array, which need not exist."""
    index, header, data = parts(content)
    index[name] = index.get(name, {"dtype": "U8", "shape": [0], "data_offsets": [len(data)] * 2}) | changes
    return assembled(index, header, data)


def without_array(content: bytes, name: str) -> bytes:
    """The file without an array, its bytes removed too."""
    index, header, data = parts(content)
    begin, end = index.pop(name)["data_offsets"]
    for entry in index.values():
        if "data_offsets" in entry and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset - (end - begin) for offset in entry["data_offsets"]]
    return assembled(index, header, data[:begin] + data[end:])
