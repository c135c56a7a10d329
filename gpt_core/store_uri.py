"""URIs of object stores and of MLflow's store, as recipes, commands and the environment give them; and their secrets.

What is said of a URI here shows nothing of it: it may hold a secret.
"""

import re

SERVERS = ("http", "https")
_CREDENTIALS = re.compile(r"://(?!/)\S*@")  # a password may hold / and @, so all up to the last @
_OPTIONS = re.compile(r"(://[^\s?]*\?)[^\s'\"]+")  # password=, odbc_connect=, X-Amz-Signature=


def without_secrets(text: str) -> str:
    """`text` with `***` for the user, the password and the options of every URI in it."""
    return _OPTIONS.sub(r"\1***", _CREDENTIALS.sub("://***@", text))


def tracking_uri_problem(uri: str, *, in_recipe: bool) -> str | None:
    """Why `uri` cannot be MLflow's store, or None.

    A server's holds no credentials. A database's may, but not in a recipe, which stands in files and on pages.
    """
    scheme, separator, rest = uri.partition("://")
    user, at, _ = rest.rpartition("@") if not rest.startswith("/") else ("", "", rest)
    if (not separator and "@" in uri) or any(sign.isspace() for sign in user):
        return "is no URI; write http://HOST:PORT, a space in a password as %20"
    if scheme in SERVERS and (at or any(sign in rest for sign in "?#")):
        return (
            "holds more than a server's address; leave the rest out and set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment"
        )
    if in_recipe and (":" in user or "?" in rest):
        return (
            "holds a password or options; put the whole URI into MLFLOW_TRACKING_URI in the environment and leave "
            "tracking.uri out"
        )
    return None


def store_uri_problem(uri: str) -> str | None:
    """Why `uri` is no folder of an object store, or None."""
    scheme, separator, rest = uri.partition("://")
    host, _, path = rest.partition("/")
    if scheme not in ("s3", "gs", "file") or not separator:
        return "is no s3://bucket/folder, gs://bucket/folder or file:///folder"
    if any(sign in host for sign in "@:") or any(sign in uri for sign in "?#"):
        return (
            "holds more than a bucket and a folder; leave out user:password@, port and query: credentials and the "
            "endpoint come from the environment, or from fsspec's and botocore's own files"
        )
    if scheme == "file" and (host or not path):
        return "is no absolute folder; write file:///folder"
    if scheme != "file" and not host:
        return f"names no bucket; write {scheme}://bucket/folder"
    return None
