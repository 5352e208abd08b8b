#!/bin/sh
# A SLURM of this machine alone, with two nodes of one core each and a partition `short`: for tests, and to try things out.
#   scripts/start_slurm.sh --install          Debian's packages, where this machine may be changed (.ci/run calls this)
#   scripts/start_slurm.sh FOLDER             starts it; everything of it lies in FOLDER. Then: export SLURM_CONF=FOLDER/slurm.conf
#   scripts/start_slurm.sh --stop FOLDER      ends it
# No system file is touched but by the packages themselves, and a SLURM that runs here already goes on.
set -eu
PATH=$PATH:/usr/sbin:/sbin

here() {
    for name in munged slurmctld slurmd sbatch srun; do
        command -v "$name" >/dev/null 2>&1 || return 1
    done
}

install() {
    here && return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        export DEBIAN_FRONTEND=noninteractive
        get="apt-get install -y -q --no-install-recommends slurm-wlm munge"
        $get >/dev/null 2>&1 || { apt-get update -q >/dev/null 2>&1 && $get >/dev/null 2>&1; } || true
    fi
    here || echo "no SLURM here: the test that needs one will skip" >&2
}

stop() {
    # Its jobs first, and the processes that watch over them.
    SLURM_CONF=$1/slurm.conf
    export SLURM_CONF
    timeout 10 scancel --user="$(id -un)" 2>/dev/null || true
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        [ -n "$(timeout 10 squeue --noheader 2>/dev/null)" ] || break
        sleep 0.5
    done
    for name in slurmd-one slurmd-two slurmctld munged; do
        [ -f "$1/$name.pid" ] && kill "$(cat "$1/$name.pid")" 2>/dev/null || true
    done
}

start() {
    here || { echo "munged, slurmctld, slurmd, sbatch or srun is not here: scripts/start_slurm.sh --install" >&2; exit 1; }
    mkdir -p "$1"
    folder=$(cd "$1" && pwd)
    chmod 755 "$folder"
    mkdir -p "$folder/state" "$folder/spool-one" "$folder/spool-two"
    host=$(hostname -s)
    port=$((20000 + $$ % 10000 * 3))
    (umask 077 && head -c 1024 /dev/urandom > "$folder/munge.key")
    # --force: a folder of a test is seldom as closed as /etc/munge.
    munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
    cat > "$folder/slurm.conf" <<END
ClusterName=slabench
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
SlurmctldPort=$port
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmdLogFile=$folder/slurmd-%n.log
SlurmdSpoolDir=$folder/spool-%n
StateSaveLocation=$folder/state
# Nothing of the machine's own is needed: no cgroups, no accounting.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# Quick, for a test: a job that is told to end has a few seconds, one that is queued again waits none.
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1
KillWait=5
ReturnToService=2
NodeName=one NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=1 RealMemory=8000
NodeName=two NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=1 RealMemory=8000
PartitionName=short Nodes=ALL Default=YES MaxTime=60 State=UP
END
    SLURM_CONF=$folder/slurm.conf
    export SLURM_CONF
    slurmctld
    slurmd -N one
    slurmd -N two
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        [ "$(sinfo --noheader --format=%D --states=idle 2>/dev/null)" = 2 ] && exit 0
        sleep 0.5
    done
    echo "SLURM does not come up; see $folder/*.log" >&2
    stop "$folder"
    exit 1
}

case "${1:-}" in
    --install) install ;;
    --stop) stop "${2:?the folder that it was started in}" ;;
    "" | -*) sed -n '2,6s/^# *//p' "$0" >&2; exit 2 ;;
    *) start "$1" ;;
esac
