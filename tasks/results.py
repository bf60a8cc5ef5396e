"""Storage of Prefect's task results: small JSON files under the run's store, never pickles."""

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prefect.filesystems import RemoteFileSystem
from prefect.serializers import JSONSerializer, Serializer
from prefect.utilities.dispatch import get_registry_for_type

# A stored record names its serializer: with JSON registered under pickle's names, a record that names pickle is a miss and runs nothing.
for _name in ("pickle", "compressed/pickle"):
    (get_registry_for_type(Serializer) or {})[_name] = JSONSerializer


def result_storage(store_url: str) -> Path | RemoteFileSystem:
    """Storage of task results below `store_url`; remote storage is registered with the Prefect server under a name made from its URL."""
    base = store_url.rstrip("/") + "/results"
    parts = urlsplit(base)
    if parts.scheme == "file":
        return Path(parts.path)
    block = RemoteFileSystem(basepath=base)
    block.save("spnas-" + hashlib.sha256(base.encode()).hexdigest()[:10], overwrite=True)
    return block


def artifact_key(_context: Any, inputs: dict[str, Any]) -> str:
    """Cache key of a task whose parameter `key` is the KIND/DIGEST of its artifact."""
    return f"cache/{inputs['key']}"
