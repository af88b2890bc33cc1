"""What every stage needs: seeds that follow from the run and the records' keys."""

import hashlib


def seed_of(run_seed: int, *key: object) -> int:
    """Seed of one request: 48 bits of sha256 over the run's seed and the request's key.

    Adding sample numbers to it stays within what every engine takes.
    """
    text = "/".join(map(str, (run_seed, *key)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])
