#!/bin/sh
# What a GPU has to show, in chunks of under ten minutes: scripts/gpu_evidence.sh [speed] [sla] [longtail] [fewshot]
#
# The first call measures what these parts will take in all; each prints that, works for CHUNK seconds and stops with the state saved,
# where the next one goes on.
# Exit codes are slabench's: 0 all is done, 1 a trial failed, 130 there is more to do. So:
#     until scripts/gpu_evidence.sh; [ $? -ne 130 ]; do :; done
#
# speed     make speed, one benchmark after the other
# sla       CIFAR-100, SLA's own training (80,000 steps of 128), ResNet-32: baseline and SLA+SD
# longtail  CIFAR-100-LT, ratio 100 and 10, 200 epochs: cross-entropy and LDAM-DRW, baseline and SLA, three seeds
# fewshot   FC100, ResNet-12, 5-way 5-shot: ProtoNet and MetaOptNet-SVM, baseline and SLA, a fraction of MetaOptNet's 60 epochs
#
# CHUNK=540          seconds of a call
# EPOCHS=6           of few-shot training, of 1,000 steps each; 60 are the published protocol
# DEVICE=auto        as of slabench
# RESULTS=results    folder of records; checkpoints are in it too
# STEPS=10           so many updates of everything, few test episodes: whether it runs at all, on a CPU too (give RESULTS a folder
#                    of its own)
# PYTHON             default: that of .venv, else python3
set -u
cd "$(dirname "$0")/.."

CHUNK=${CHUNK:-540} EPOCHS=${EPOCHS:-6} DEVICE=${DEVICE:-auto} RESULTS=${RESULTS:-results} STEPS=${STEPS:-}
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
BENCHMARKS="sampling evaluation training classifier heads allocation data_import"
begin=$(date +%s)

for part in "$@"; do
    case $part in
    speed | sla | longtail | fewshot) ;;
    *) echo "'$part' is no part of this: give some of speed, sla, longtail, fewshot, or nothing for all" >&2 && exit 2 ;;
    esac
done
if [ -n "$STEPS" ] && [ "$RESULTS" = results ]; then
    echo "STEPS=$STEPS is a trial of the script, and its records do not belong into results/: set RESULTS to another folder" >&2
    exit 2
fi
parts=${*:-speed sla longtail fewshot}

wanted() {
    case " $parts " in *" $1 "*) ;; *) return 1 ;; esac
}

# The trials, one a line: the arguments of `slabench run`.
trials() {
    short="" few_short=""
    if [ -n "$STEPS" ]; then
        short="--steps $STEPS --set select.points=1"
        few_short="$short --set select.episodes=20 --episodes 20"
    fi
    if wanted sla; then
        for objective in baseline sla+sd; do
            # The student is whose epoch SLA+SD chooses by; the baseline has none.
            by=single && [ "$objective" = sla+sd ] && by=distilled
            echo "supervised/sla --dataset cifar100 --objective $objective --set select.by=$by --seeds 0 $short"
        done
    fi
    if wanted longtail; then
        for seed in 0 1 2; do
            for ratio in 100 10; do
                for loss in "--loss ce" "--loss ldam --reweight drw"; do
                    for objective in baseline sla; do
                        echo "imbalanced/ldam --dataset cifar100 --ratio $ratio $loss --objective $objective --seeds $seed $short"
                    done
                done
            done
        done
    fi
    if wanted fewshot; then
        for head in protonet metaoptnet-svm; do
            for objective in baseline sla; do
                echo "fewshot/paper --dataset fc100 --shots 5 --head $head --objective $objective --seeds 0" \
                    "${few_short:---steps $((EPOCHS * 1000)) --set select.points=$EPOCHS}"
            done
        done
    fi
}

left() {
    echo $((CHUNK - ($(date +%s) - begin)))
}

# Runs a command for what is left of the chunk; 130 where that was not enough.
within_chunk() {
    seconds=$(left)
    [ "$seconds" -gt 5 ] || return 130
    timeout --signal=TERM --kill-after=30 "$seconds" "$@"
    code=$?
    [ $code -eq 124 ] || [ $code -eq 137 ] && return 130
    return $code
}

state=$RESULTS/gpu_evidence
mkdir -p "$state"
failed=0

# The estimate first, once for these parts: a dry run of each trial measures a few steps. Seeds do not change it.
estimate=$state/estimate-$(echo $parts | tr ' ' -)
if [ ! -f "$estimate.txt" ]; then
    echo "What it will take, measured here:"
    : >"$estimate.part"
    trials | grep -v -e '--seeds [12]' >"$state/trials.part"
    while read -r arguments; do
        echo "slabench run $arguments" >>"$estimate.part"
        # shellcheck disable=SC2086 # arguments are words
        within_chunk "$PYTHON" -m slabench run $arguments --device "$DEVICE" --results "$RESULTS" --dry-run \
            </dev/null >>"$estimate.part" 2>&1
        code=$?
        if [ $code -eq 130 ]; then
            echo "the estimate alone takes longer than CHUNK=$CHUNK seconds: give more" >&2
            exit 2
        elif [ $code -ne 0 ]; then
            tail -n 3 "$estimate.part" >&2
            exit $code
        fi
    done <"$state/trials.part"
    rm "$state/trials.part"
    mv "$estimate.part" "$estimate.txt"
fi
cat "$estimate.txt"

if wanted speed && [ -z "$STEPS" ]; then
    for name in $BENCHMARKS; do
        [ -f "$state/speed-$name.done" ] && continue
        within_chunk "$PYTHON" benchmarks/speed/run_all.py "$state/speed.json" --only "$name"
        code=$?
        [ $code -eq 130 ] && echo "more to do: run this again" && exit 130
        if [ $code -eq 0 ]; then : >"$state/speed-$name.done"; else failed=1; fi
    done
fi

trials >"$state/trials.txt"
while read -r arguments; do
    # A finished trial is passed by, an interrupted one goes on.
    # shellcheck disable=SC2086
    within_chunk "$PYTHON" -m slabench run $arguments --device "$DEVICE" --results "$RESULTS" </dev/null
    code=$?
    [ $code -eq 130 ] && echo "more to do: run this again" && exit 130
    [ $code -eq 0 ] || failed=1
done <"$state/trials.txt"
[ $failed -eq 0 ] && echo "all is done; the records are in $RESULTS/runs"
exit $failed
