#!/bin/sh
# Instructions a call (map and unmap averaged), by callgrind: the difference between three passes and one.
# Usage: count.sh BINARY
set -eu
for workload in A D E F; do
    for contestant in portcullis aarch64-paging multiarch x86_64; do
        total() {
            valgrind --tool=callgrind --callgrind-out-file=/dev/null "$1" count $workload $contestant "$2" 2>&1
        }
        one=$(total "$1" 1); three=$(total "$1" 3)
        calls=$(echo "$one" | sed -n 's/ calls a pass//p')
        read_total() { echo "$1" | sed -n 's/.*Collected : //p'; }
        echo "$workload $contestant $(( ($(read_total "$three") - $(read_total "$one")) / (4 * calls) ))"
    done
done
