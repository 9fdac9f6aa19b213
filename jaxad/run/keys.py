"""Keys: all that something depends on, and the name that it has by that."""

import hashlib
import json

from jaxad.run import results


def digest(key: dict) -> str:
    """A name for all that something depends on, 32 hexadecimal digits."""
    text = json.dumps(key, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def versions() -> dict[str, str]:
    """Versions of the code, whatever the devices."""
    return {name: v for name, v in results.versions().items() if name != "device"}
