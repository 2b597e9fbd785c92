"""`BlockPool`: who holds which block of the KV cache, and which blocks can be shared.

A pool knows ids, never bytes. A block that is full of computed tokens is *published* under a key that stands
for those tokens and all before them, so a later request with the same beginning can hold it too. Published
blocks that nobody holds stay usable until they are the least recently used when a block is needed.

The key of a block is a keyed 128-bit BLAKE2b (RFC 7693) of the key before it and its own token ids; the first
link is made from the request's salt, so requests with different salts never share. Without the secret hash
key nobody can construct two prompts that collide, and on a hit the token ids are compared as well.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

KEY_BYTES = 16


class BlockPool:
    """Reference counts, the free list and the prefix map of `num_blocks` blocks, of which block 0 is reserved."""

    def __init__(self, num_blocks: int, block_size: int, hash_key: bytes = b"") -> None:
        self.block_size = block_size
        self.capacity = num_blocks - 1
        self.refs = [0] * num_blocks
        self.free = OrderedDict.fromkeys(range(1, num_blocks))  # least recently used first
        self.published: dict[bytes, int] = {}  # key -> block
        self.contents: dict[int, tuple[bytes, bytes]] = {}  # published block -> its key and token ids
        self._hash_key = hash_key

    @property
    def available(self) -> int:
        """Blocks that can be taken, including the published ones that nobody holds."""
        return len(self.free)

    @property
    def used(self) -> int:
        return self.capacity - len(self.free)

    # -- holding ------------------------------------------------------------------------------------------------

    def take(self, count: int) -> list[int] | None:
        """Hand out `count` blocks, least recently used first, or None (and nothing) if there are fewer."""
        if count > len(self.free):
            return None
        taken = []
        for _ in range(count):
            block, _ = self.free.popitem(last=False)
            if block in self.contents:
                key, _ = self.contents.pop(block)
                del self.published[key]
            self.refs[block] = 1
            taken.append(block)
        return taken

    def hold(self, blocks: Sequence[int]) -> None:
        """Add a holder to blocks that `match` found."""
        for block in blocks:
            if self.refs[block] == 0:
                del self.free[block]
            self.refs[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Drop a holder of each. The last block is released first, so that a prefix outlives what follows it."""
        for block in reversed(blocks):
            self.refs[block] -= 1
            if self.refs[block] == 0:
                self.free[block] = None
                if block not in self.contents:  # nothing to remember: use it first
                    self.free.move_to_end(block, last=False)

    # -- sharing ------------------------------------------------------------------------------------------------

    def salt_key(self, salt: bytes) -> bytes:
        """The key in front of a request's first block."""
        return blake2b(salt, digest_size=KEY_BYTES, key=self._hash_key, person=b"salt").digest()

    def match(self, keys: list[bytes], tokens: Sequence[int]) -> list[int]:
        """The published blocks `tokens` begins with; at least one token is left over, to compute the next from.

        `keys` holds the salt's key, then that of each block hashed so far; it grows as far as is looked at.
        """
        found: list[int] = []
        for index in range((len(tokens) - 1) // self.block_size):
            key, data = self._identify(keys, tokens, index)
            block = self.published.get(key)
            if block is None or self.contents[block] != (key, data):
                break
            found.append(block)
        return found

    def publish(self, keys: list[bytes], tokens: Sequence[int], blocks: Sequence[int], start: int, stop: int) -> None:
        """Offer `blocks[start:stop]`, full of computed `tokens`, to others. The first block with a key keeps it."""
        for index in range(start, stop):
            key, data = self._identify(keys, tokens, index)
            block = blocks[index]
            if key not in self.published and block not in self.contents:
                self.published[key] = block
                self.contents[block] = key, data

    def _identify(self, keys: list[bytes], tokens: Sequence[int], index: int) -> tuple[bytes, bytes]:
        """The key and the token ids, 8 bytes each, of the block at `index`; `keys` reaches to the one before it."""
        first = index * self.block_size
        data = array("q", tokens[first : first + self.block_size]).tobytes()
        if index + 1 == len(keys):
            keys.append(blake2b(keys[index] + data, digest_size=KEY_BYTES, key=self._hash_key).digest())
        return keys[index + 1], data
