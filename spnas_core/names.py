"""Names of the files of artifacts; names that cannot lead out of the store, and URLs that hold no password."""

import re

from spnas_core.errors import UserError

WEIGHTS_FILE, MODEL_FILE = "weights.safetensors", "model.json"  # of a training, and of a model folder
AUDIT_FILE, HISTORY_FILE, DETECTIONS_FILE = "audit.json", "history.json", "detections.json"  # of a training
SEGMENTATION_FILE = "segmentation.json"  # of a training of the other task, in place of detections
STAGE_FILE, MANIFEST_FILE = "stage.json", "manifest.json"
METRICS_FILE = "metrics.json"  # by which a job's process tells its metrics

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,199}")
PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial")
_PASSWORD = re.compile(  # what follows the colon is no port; a bucket has none
    r"(\b(?:s3a?|gc?s|az|abfss?|adl|oss|oci))?://[^/@:]*:(?(1)|(?!\d{1,5}(?:/|$)))[^@]*@", re.IGNORECASE
)
_SECRET = re.compile(r"://[^?]*\?(?:.*&)?[^=&]*(?:token|sig|key|secret|passw|credential)[^=&]*=", re.IGNORECASE | re.DOTALL)


def check_name(name: str) -> str:
    """Return `name` if it is one plain file name; UserError for separators, leading dots, absolute paths and the like."""
    if not _NAME.fullmatch(name):
        raise UserError(f"name in the store: expected letters, digits, '.', '_', '=' and '-', got {name!r}")
    return name


def check_path(path: str) -> str:
    """Return `path` if every part of it is a plain name, or the one of what is being written."""
    for part in path.split("/"):
        if not PARTIAL.fullmatch(part):
            check_name(part)
    return path


def is_path(path: str) -> bool:
    """Whether `check_path` would let it pass."""
    return all(_NAME.fullmatch(part) or PARTIAL.fullmatch(part) for part in path.split("/"))


def check_url(url: str) -> str:
    """Return `url` if there is no password, token or the like in it: URLs are written to logs, records and results. UserError."""
    if found := _PASSWORD.search(url):
        place = url[found.end() :].rpartition("@")[2].partition("?")[0]
        hidden = f"{url[: found.start()]}{found[1] or ''}://***@{place}"
        raise UserError(f"URL: expected one without user and password, which belong into the environment, got {hidden!r}")
    if _SECRET.search(url):
        hidden = f"{url.partition('?')[0]}?***"
        raise UserError(f"URL: expected one without a token, key or signature, which belong into the environment, got {hidden!r}")
    return url
