#!/bin/sh
# Turns subnet.env into options for the Docker daemon. Same flags and output as flannel's script of this name.
set -eu

usage() {
    cat >&2 <<EOF
usage: $0 [-f FLANNEL_ENV] [-d FILE] [-i] [-c] [-m] [-k KEY]
  -f  file that flanneld wrote (default /run/flannel/subnet.env)
  -d  file to write (default /run/docker_opts.env)
  -i  write each option as a variable of its own: DOCKER_OPT_BIP, DOCKER_OPT_IPMASQ, DOCKER_OPT_MTU
  -c  write all options as one variable; without -i and -c: both
  -m  say nothing about masquerading
  -k  name of the one variable (default DOCKER_OPTS); a value it has in the environment comes first
EOF
    exit 1
}

fail() {
    echo "$0: $1" >&2
    exit 1
}

subnet_env=/run/flannel/subnet.env
output=/run/docker_opts.env
individual=
combined=
masquerade=yes
key=DOCKER_OPTS
while getopts f:d:icmk:h option; do
    case $option in
    f) subnet_env=$OPTARG ;;
    d) output=$OPTARG ;;
    i) individual=yes ;;
    c) combined=yes ;;
    m) masquerade= ;;
    k) key=$OPTARG ;;
    *) usage ;;
    esac
done
shift $((OPTIND - 1))
[ $# = 0 ] || usage
# A key is evaluated below.
case $key in
'' | [0-9]* | *[!A-Za-z0-9_]*) usage ;;
esac
if [ ! "$individual$combined" ]; then
    individual=yes
    combined=yes
fi

[ -r "$subnet_env" ] || fail "cannot read $subnet_env: flanneld writes it once it has a subnet; name another with -f"
# `.` looks for a name without a slash in PATH.
case $subnet_env in
*/*) ;;
*) subnet_env=./$subnet_env ;;
esac
# shellcheck source=/dev/null
. "$subnet_env"

# Variables of the environment whose name begins like these join them.
[ ! "${FLANNEL_SUBNET:-}" ] || DOCKER_OPT_BIP="--bip=$FLANNEL_SUBNET"
[ ! "${FLANNEL_MTU:-}" ] || DOCKER_OPT_MTU="--mtu=$FLANNEL_MTU"
if [ "$masquerade" ]; then
    # One of the two masquerades, not both.
    case ${FLANNEL_IPMASQ:-} in
    true) DOCKER_OPT_IPMASQ=--ip-masq=false ;;
    false) DOCKER_OPT_IPMASQ=--ip-masq=true ;;
    *)
        echo "Invalid value of FLANNEL_IPMASQ: ${FLANNEL_IPMASQ:-}" >&2
        exit 1
        ;;
    esac
fi

# NAME VALUE: as a line that shells and systemd read alike.
assignment() {
    printf '%s="%s"\n' "$1" "$(printf %s "$2" | sed 's/[\\"$`]/\\&/g')"
}

eval "options=\${$key:-}"
lines=
for name in $(set | sed -n 's/^\(DOCKER_OPT_[A-Za-z0-9_]*\)=.*/\1/p' | LC_ALL=C sort -u); do
    # A line inside of another variable's value can look like one.
    eval "[ \"\${$name+set}\" ]" || continue
    eval "value=\$$name"
    options="$options $value"
    [ ! "$individual" ] || lines="$lines$(assignment "$name" "$value")
"
done
[ ! "$combined" ] || lines="$lines$(assignment "$key" "$options")
"
# At once, so that nobody reads one half.
printf %s "$lines" >"$output"

# Docker would give its bridge an address that another host is the way to.
if [ "${FLANNEL_SUBNET:-}" ] && ip route show exact "$FLANNEL_SUBNET" 2>/dev/null | grep -q ' via '; then
    echo "Your routing table already contains the subnet: $FLANNEL_SUBNET" >&2
    exit 1
fi
