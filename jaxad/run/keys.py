"""Keys: all that something depends on, and the name that it has by that."""

import hashlib
import json

import jax

from jaxad.run import results


def digest(key: dict) -> str:
    """A name for all that something depends on, 32 hexadecimal digits."""
    text = json.dumps(key, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def versions(*, with_device: bool = False) -> dict[str, str]:
    """Versions of the code, and where bits depend on it the kind of the devices; they
    never depend on how many there are."""
    found = {name: v for name, v in results.versions().items() if name != "device"}
    return found | ({"device": jax.devices()[0].device_kind} if with_device else {})
