"""What a rank's failure means where several machines train: the rank's own, or that of a machine that is gone.

A rank whose peer is gone fails in the next collective, whatever the peer died of. One that dies of an error of its own
writes it down first; where nobody did, the machine is lost, and the training can be started again.
"""

import os
import socket

from gpt_core.errors import StageError, TransientError

PEER_IS_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "ncclRemoteError")  # gloo, NCCL


def spans_machines() -> bool:
    """Whether this process is a rank of a training on more than one machine."""
    here = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE", "1")  # torchrun, DeepSpeed's launcher
    return int(os.environ.get("WORLD_SIZE", "1")) > int(here)


def explain_failure(error: Exception) -> StageError:
    """What to write down for a rank that fails of `error`, where nobody has written down anything yet."""
    rank = f"rank {os.environ['RANK']} on {socket.gethostname()}"
    first_line = next(iter(str(error).splitlines()), "")
    if any(words in str(error) for words in PEER_IS_GONE):
        return TransientError(f"{rank} lost another machine: {first_line}")
    return StageError(f"{rank} failed: {type(error).__name__}: {first_line}")
