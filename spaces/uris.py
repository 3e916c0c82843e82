"""Places that are no folder of this machine: `s3://BUCKET/PATH?region=...`, gs://, abfs://,
hdfs://, file://."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from spaces.errors import UserError

HOME = "QDLM_CACHE"
"""Environment variable: the folder of this node that holds copies of what lies at URIs; by default
~/.cache/qdlm."""
ORIGIN = ".origin"
"""File of such a folder that says which URI it stands for."""


def is_uri(place: str | Path) -> bool:
    """Whether a place is a URI and no path. Raises `UserError` for a URI with a slash too few."""
    if re.match(r"(s3|gs|gcs|abfss?|hdfs|file):/?[^/]", str(place)):
        scheme, _, rest = str(place).partition(":")
        raise UserError(f"{place}: neither a folder nor a URI; did you mean {scheme}://{rest.lstrip('/')}?")
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", str(place)) is not None


def checked(uri: str) -> str:
    """The URI. Raises `UserError` when it holds a password: it would be kept with the run and printed."""
    parts = urlsplit(uri)
    if parts.password or re.search(r"(^|[?&])(secret|token|password)[^=&]*=", parts.query, re.IGNORECASE):
        raise UserError(f"{parts.scheme}://{parts.hostname or ''}{parts.path}: leave passwords out of a URI; "
                        "credentials are read from the environment (S3: AWS_ACCESS_KEY_ID, a profile, "
                        "the machine's role)")
    return uri


def joined(uri: str, *names: str) -> str:
    """The URI of what lies below it; the query (endpoint, region) stays at the end."""
    head, mark, query = uri.partition("?")
    return "/".join([head.rstrip("/"), *(name.strip("/") for name in names if name)]) + mark + query


def parent(uri: str) -> tuple[str, str]:
    """What a URI lies in, and its last name."""
    head, mark, query = uri.partition("?")
    above, _, name = head.rstrip("/").rpartition("/")
    if not name or above.endswith(":/") or above.endswith("//"):
        raise UserError(f"{uri}: names no run; legal: SCHEME://BUCKET/PATH/NAME")
    return above + mark + query, name


def node_folder(kind: str, uri: str) -> Path:
    """The folder on this node that stands for a URI, made if need be: `kind` is `stores` (written)
    or `mirrors` (read)."""
    root = Path(os.environ.get(HOME)
                or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qdlm")
    uri = joined(uri)
    slug = re.sub(r"[^A-Za-z0-9]+", "-", uri.partition("?")[0]).strip("-")[-60:]
    folder = root.expanduser().absolute() / kind / f"{slug}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ORIGIN).write_text(uri + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}; "
                        f"name another folder: {HOME}=DIR") from error
    return folder


def origin(path: Path) -> str | None:
    """The URI that a path below such a folder stands for; None for a path of its own."""
    path = Path(path).absolute()
    for above in path.parents:
        if (above / ORIGIN).is_file():
            return joined((above / ORIGIN).read_text(encoding="utf-8").strip(),
                          *path.relative_to(above).parts)
    return None
