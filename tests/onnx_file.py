"""ONNX files written by hand, for tests: protocol buffers of small numbers and names."""

from __future__ import annotations


def message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """A protocol buffer of (number, value) fields, small numbers only: an ONNX file needs no more."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += bytes([number << 3, value])
            continue
        data = value.encode() if isinstance(value, str) else value
        length = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
        out += bytes([number << 3 | 2]) + length + data
    return out


def value(name: str, *dims: int) -> bytes:
    """A named float tensor of this shape, fewer than 128 along each axis."""
    shape = message(*((1, message((1, dim))) for dim in dims))
    return message((1, name), (2, message((1, message((1, 1), (2, shape))))))
