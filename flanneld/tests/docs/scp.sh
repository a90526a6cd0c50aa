#!/bin/sh
# scp FILE… [root@]HOST:PATH: between the hosts of a test, which share a file system in all but their private
# directories.
set -eu
for target; do :; done
host=${target%%:*}
root=$(cat "@HOSTS@/${host#*@}.root")
while [ $# -gt 1 ]; do
    cp "$1" "$root${target#*:}"
    shift
done
