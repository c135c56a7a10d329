"""The batch script of every job under Slurm, a constant: which stage it makes, its arguments say."""

SCRIPT = r"""#!/bin/sh
# MANIFEST ARCHIVE COMMAND...: where MANIFEST stands nothing, else COMMAND on every node of the job. Where ARCHIVE is
# not empty, COMMAND is what its Python is to run: a node unpacks it once, to a folder that is its user's alone.
manifest=$1 archive=$2
shift 2
unpack='
set -eu
umask 077
archive=$1
shift
root=${TMPDIR:-/tmp}/gptmill-$(id -u)
mkdir -p "$root"
if [ -L "$root" ] || [ ! -O "$root" ]; then echo "error: $root belongs to somebody else" >&2; exit 3; fi
chmod 700 "$root"
place=$root/$(stat -Lc "%n %s %Y" "$archive" | sha256sum | cut -c1-16)
exec 9>"$place.lock"
flock 9
if [ ! -e "$place.whole" ]; then
  rm -rf "$place"
  mkdir "$place"
  tar xzf "$archive" -C "$place"
  : >"$place.whole"
fi
exec 9>&-
exec "$place/bin/python" "$@"
'
if [ -e "$manifest" ]; then
  echo "another job has made it: $manifest"
  exit 0
fi
if [ -n "$archive" ]; then set -- /bin/sh -c "$unpack" gptmill "$archive" "$@"; fi
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi
exec srun --kill-on-bad-exit=1 "$@"
"""
