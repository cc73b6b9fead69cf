"""Protocol-buffer messages by field number, without the library and without definitions.

Source: protobuf.dev/programming-guides/encoding. For bytes that are no message, every function raises ValueError, or
IndexError if the message is cut.
"""

# How a message marks what follows a field's number.
_VARINT, _LENGTH_DELIMITED, _FIXED_SIZES = 0, 2, {1: 8, 5: 4}
# The bit of a byte of a number that is not its last.
_MORE = 0x80

Fields = dict[int, list[int | bytes]]


def fields_of(message: bytes) -> Fields:
    """A message's values by field number, in the order given."""
    fields: Fields = {}
    position = 0
    while position < len(message):
        tag, position = message[position], position + 1
        if tag & _MORE:  # most are of one byte, and a call for each takes longer than all the rest
            tag, position = varint(message, position - 1)
        kind = tag & 7
        value: int | bytes
        if kind == _VARINT:
            value, position = varint(message, position)
        elif kind == _LENGTH_DELIMITED:
            length, position = message[position], position + 1
            if length & _MORE:
                length, position = varint(message, position - 1)
            value, position = message[position : position + length], position + length
        elif kind in _FIXED_SIZES:
            end = position + _FIXED_SIZES[kind]
            value, position = int.from_bytes(message[position:end], "little"), end
        else:
            raise ValueError(f"a message has a field of unknown kind {kind}")
        if position > len(message):
            raise ValueError("a message is cut short")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def integer(fields: Fields, number: int) -> int:
    """An integer field, signed as int64: zero if omitted, the last if repeated."""
    value = fields.get(number, [0])[-1]
    if not isinstance(value, int):
        raise ValueError(f"expected an integer in field {number}")
    return value - (1 << 64) if value >> 63 else value


def message_of(value: int | bytes) -> bytes:
    """A field that is a message, a string or bytes."""
    if not isinstance(value, bytes):
        raise ValueError("expected a message")
    return value


def varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at this place, and its end. Seven bits a byte, lowest first; the top bit says that more follow."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position + shift // 7]
        value |= (byte & 0x7F) << shift
        if not byte & _MORE:
            return value & 0xFFFFFFFFFFFFFFFF, position + shift // 7 + 1
    raise ValueError("a number is too long")
