"""URIs of object stores, as recipes and commands give them: s3://bucket/folder, gs://bucket/folder, file:///folder."""


def store_uri_problem(uri: str) -> str | None:
    """Why `uri` is no folder of an object store, or None. What is said shows nothing of `uri`: it may hold a secret."""
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
