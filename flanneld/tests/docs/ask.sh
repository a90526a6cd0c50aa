#!/bin/sh
# systemctl and journalctl: ask the test, which stands in for systemd on this host.
reply=@STAND_IN@/reply.$$
mkfifo "$reply"
printf '%s\t%s\t%s\n' "$reply" "${0##*/}" "$*" >@STAND_IN@/requests
{
    read -r status
    cat
} <"$reply"
rm "$reply"
exit "$status"
