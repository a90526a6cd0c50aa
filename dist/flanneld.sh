#!/bin/sh
# flanneld.sh [flags]: runs the flanneld beside this script with the options of /etc/default/flanneld, one
# FLANNELD_…=value a line, and the flags given here, which win.
#
# `exec` makes the script become flanneld: what a supervisor signals and watches is then the daemon itself. Without it a
# stop ends the script alone and leaves the daemon behind.
set -eu
options=/etc/default/flanneld
if [ -r "$options" ]; then
    set -a
    # shellcheck source=/dev/null
    . "$options"
    set +a
fi
exec "$(dirname "$0")/flanneld" "$@"
