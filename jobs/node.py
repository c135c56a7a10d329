"""This machine's part of a training over several machines, or of one that starts again by itself: torchrun, corrected.

    python -m jobs.node --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29400 --rdzv-id NAME \
        --max-restarts 3 -m jobs.pretrain --recipe ... --output ...

Takes torchrun's arguments, the same on every machine. What torchrun (of torch 2.13) does otherwise:

- It knows by its host name alone whether HOST is this machine, and publishes that name as the address of rank 0. Where
  the name means 127.0.0.1, or nothing to the others, nobody meets. Here both come from the way that leads to HOST.
- A restart finds the ranks' addresses of the attempt before in the store that its agents share, and connects to
  processes that are gone. Here every attempt has a store of its own.

torchrun's own PET_RDZV_CONF sets the rendezvous' times: join_timeout=600, last_call_timeout=30, keep_alive_interval=5.
"""

import os
import sys
from pathlib import Path

from gpt_core.errors import GptmillError, SetupError, StageError, TransientError
from jobs.job import ERROR, end_with_error
from jobs.network import way_to


def main(argv: list[str]) -> None:
    """The ranks of this machine have ended well. Raises GptmillError where the machines did not meet."""
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    from torch.distributed.elastic.rendezvous import (  # torch loads only where ranks start
        RendezvousClosedError,
        RendezvousConnectionError,
        RendezvousTimeoutError,
    )
    from torch.distributed.run import parse_args, run

    arguments = parse_args(argv)  # type: ignore[no-untyped-call]
    place = arguments.rdzv_endpoint
    if not arguments.standalone:
        arguments.local_addr, arguments.rdzv_conf = _correct(place, arguments.local_addr, arguments.rdzv_conf)
    try:
        run(arguments)  # type: ignore[no-untyped-call]
    except RendezvousTimeoutError:
        raise TransientError(
            f"fewer than {arguments.nnodes.partition(':')[0]} machines met at {place} in time; start the others with "
            "`gptmill join RECIPE`, or set cluster.train.min_nodes to go on with fewer"
        ) from None
    except RendezvousConnectionError as error:
        raise TransientError(
            f"{place} does not answer: {error.__cause__ or error}; is `gptmill run` or `gptmill join` running on that "
            "machine, and its port open to this one?"
        ) from None
    except RendezvousClosedError:
        raise StageError(f"the machines that met at {place} have ended; their logs say why") from None


def _correct(place: str, local_address: str | None, settings: str) -> tuple[str, str]:
    """(this machine's address for the others, the rendezvous' settings with who hosts it); what is given stays."""
    try:
        there, here = way_to(place.rpartition(":")[0])
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SetupError(
            f"cluster.train.rendezvous: {place}: {reason}; give an address that this machine reaches"
        ) from None
    hosts = f"is_host={'true' if there == here else 'false'}"
    return local_address or here, ",".join(filter(None, [hosts, settings]))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except GptmillError as failure:
        place_of_output = Path(sys.argv[sys.argv.index("--output") + 1])
        if not (place_of_output / ERROR).exists():  # a rank's own words say more
            end_with_error(failure, place_of_output)
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(failure.exit_code)
