"""Whether a file is all there, from the sizes that its container states; FFmpeg reads what is there and says nothing.

Sources: ISO/IEC 14496-12 (MP4, MOV, 3GP), RIFF (AVI), RFC 8794 (Matroska, WebM), GIF89a.
"""

import struct
from typing import BinaryIO

BOXES = set("ftyp styp moov moof mdat free skip wide uuid sidx mfra pnot udta".split())

EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


LISTS = (b"#EXTM3U", b"ffconcat")
"""The first bytes of texts that FFmpeg follows to other files, and waits for where they are to grow."""


def is_whole(file: BinaryIO, size: int) -> bool | None:
    """Whether a file is as long as its container says, and has its index; None where that can't be told.

    Args:
        file: Open for reading.
        size: Its length, bytes.
    """
    file.seek(0)
    head = file.read(8)
    if head[4:].decode("latin-1") in BOXES:
        return _boxes_are_whole(file, size)
    if head.startswith(b"RIFF"):
        return _riff_is_whole(file, size)
    if head.startswith(EBML):
        return _segment_is_whole(file, size)
    if head.startswith(b"GIF8"):
        file.seek(max(0, size - 16))
        return b";" in file.read()  # the last byte, but for what some tools put behind it
    return None


def _boxes_are_whole(file: BinaryIO, size: int) -> bool:
    """Follow the boxes of the top level: each a size, a name of four letters, and the content."""
    position, has_index = 0, False
    while position + 8 <= size:
        file.seek(position)
        length, name = struct.unpack(">I4s", file.read(8))
        if name.decode("latin-1") not in BOXES:
            break  # junk that something put behind the video
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        has_index |= name == b"moov"
        position = size if length == 0 else position + max(8, length)
    return has_index and position <= size


def _riff_is_whole(file: BinaryIO, size: int) -> bool | None:
    """Follow the chunks of the top level: `RIFF`, a size, and the content; long files have several."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack("<4sI", file.read(8))
        if name != b"RIFF":
            break
        if length == 0:
            return None  # left open by the recorder
        position += 8 + length
    return position <= size


def _segment_is_whole(file: BinaryIO, size: int) -> bool | None:
    """Find the end of the segment that follows the EBML header; None where its size is left open, as in streams."""
    file.seek(len(EBML))
    header = _read_size(file)
    if header is None:
        return None
    file.seek(header, 1)
    if file.read(len(SEGMENT)) != SEGMENT:
        return None
    length = _read_size(file)
    return None if length is None else file.tell() + length <= size


def _read_size(file: BinaryIO) -> int | None:
    """A number whose first byte tells by its leading zeros how many follow; None if all its bits are set: unknown."""
    first = file.read(1)
    if not first or first == b"\0":
        return None
    following = 8 - first[0].bit_length()
    value = int.from_bytes(first + file.read(following), "big") & ((1 << 7 * (following + 1)) - 1)
    return None if value == (1 << 7 * (following + 1)) - 1 else value
