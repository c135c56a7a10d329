"""The PersistentVolumeClaim that holds the workspace: where it stands, here and in every pod."""

from pathlib import PurePosixPath

from gpt_core.errors import SetupError
from gpt_core.recipe import Kubernetes


def claim_mount(settings: Kubernetes, workspace: str) -> str:
    """The folder that the claim is mounted at, and below which the absolute `workspace` lies.

    Raises SetupError where no such folder can be: the claim would hide the image's own files, or the workspace would
    lie elsewhere.
    """
    mount = settings.mount or str(PurePosixPath(workspace).parent)
    if mount == "/":
        raise SetupError(
            f"cluster.kubernetes.mount: the claim cannot stand at / (workspace: {workspace}); put the workspace into a "
            "folder of the claim, /data/workspace, and give its mount, /data"
        )
    if not PurePosixPath(workspace).is_relative_to(mount):
        raise SetupError(
            f"cluster.kubernetes.mount={mount}: the workspace {workspace} lies elsewhere; set `workspace:` to a folder "
            "below the mount"
        )
    return mount
