#!/bin/sh
# flanneld.sh [flags]: runs the flanneld beside this script with the options of /etc/default/flanneld, one
# FLANNELD_…=value a line, and the flags given here, which win.
#
# `exec` makes the script become flanneld: what a supervisor signals and watches is then the daemon itself. Without it a
# stop ends the script alone and leaves the daemon behind.
set -eu
options=/etc/default/flanneld
if [ -r "$options" ]; then
    # Read as systemd reads it, not run: a password may hold anything.
    while IFS= read -r line || [ "$line" ]; do
        name=${line%%=*}
        value=${line#*=}
        case $name in
        "$line" | '' | [0-9]* | *[!A-Za-z0-9_]*) continue ;;
        esac
        case $value in
        \"*\") value=${value#\"} value=${value%\"} ;;
        \'*\') value=${value#\'} value=${value%\'} ;;
        esac
        export "$name=$value"
    done <"$options"
fi
exec "$(dirname "$0")/flanneld" "$@"
