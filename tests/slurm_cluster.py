"""A Slurm on the loopback interface: munged, slurmctld and a slurmd for each node, all on this machine, as this user.

    python tests/slurm_cluster.py     prints what to export, and ends the cluster at Ctrl-C

Debian: apt install --no-install-recommends slurmctld slurmd slurm-client munge. Both nodes are this machine; each says
it has more CPUs than there are, so that jobs wait for nobody.
"""

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
START_SECONDS = 60
CONFIGURATION = """
ClusterName=gptmill
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
NodeName=first NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=8000
NodeName=second NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=8000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class SlurmCluster:
    """Daemons in the foreground, children of this process; `environment` lets Slurm's commands find them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Both nodes are idle when this returns."""
        (self.folder / "state").mkdir(parents=True)
        self.folder.chmod(0o711)  # munged: everybody must reach its socket
        configuration = CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            user=getpass.getuser(),
            folder=self.folder,
            ports=_free_ports(3),
        )
        (self.folder / "slurm.conf").write_text(configuration)
        self._start_munged()
        self._start("slurmctld", "-D", "-f", self.environment["SLURM_CONF"])
        for node in ("first", "second"):
            self._start("slurmd", "-D", "-N", node, "-f", self.environment["SLURM_CONF"])
        self._wait(lambda: self.ask("sinfo", "--noheader", "--Node", "--format=%T").split() == ["idle"] * 2)

    def ask(self, *command: str) -> str:
        """What the command prints, errors too."""
        return subprocess.run(
            command,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        ).stdout

    def stop(self) -> None:
        """No job and no daemon is left."""
        if len(self.daemons) > 1:
            self.ask("scancel", "--me", "--signal=KILL", "--full")
            self.ask("scancel", "--me")
            self._wait(lambda: not self.ask("squeue", "--noheader").strip())
        while self.daemons:
            daemon = self.daemons.pop()
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _start_munged(self) -> None:
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        files = {name: self.folder / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        self._start(
            *["munged", "--foreground", "--force", "--key-file", str(key), "--socket", str(files["socket"])],
            *["--pid-file", str(files["pid"]), "--log-file", str(files["log"]), "--seed-file", str(files["seed"])],
        )
        self._wait(files["socket"].exists)

    def _start(self, *command: str) -> None:
        with (self.folder / f"{len(self.daemons)}-{command[0]}.txt").open("wb") as log:
            self.daemons.append(
                subprocess.Popen(
                    [_find(command[0]), *command[1:]],
                    env={**os.environ, **self.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def _wait(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not holds():
            assert time.monotonic() < deadline, self.told()
            assert all(daemon.poll() is None for daemon in self.daemons), self.told()
            time.sleep(0.05)

    def told(self) -> str:
        """The daemons' logs."""
        logs = sorted([*self.folder.glob("*.txt"), *self.folder.glob("*.log")])
        return "\n".join(f"== {log.name}\n{log.read_text(errors='replace')}" for log in logs)


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """Two idle nodes, whose files stand in `folder`. The test is skipped where this machine has no Slurm."""
    missing = [name for name in NEEDED if _find(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here: apt install slurmctld slurmd slurm-client munge")
    cluster = SlurmCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _find(name: str) -> str | None:
    """The daemons stand in sbin, which is on root's PATH alone."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory(prefix="slurm-") as name,
        slurm_cluster(Path(name)) as started,
    ):
        print(f"export SLURM_CONF={started.environment['SLURM_CONF']}", flush=True)
        signal.pause()
