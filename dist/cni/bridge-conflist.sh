#!/bin/sh
# bridge-conflist.sh [SUBNET_ENV [CONFLIST]]: writes a CNI network of the standard plugins bridge, host-local and
# portmap for the subnet that flanneld has, for hosts without the `flannel` plugin, which reads subnet.env itself.
# By default from /run/flannel/subnet.env to /etc/cni/net.d/10-flannel.conflist. Run it after each start of flanneld, in
# systemd with ExecStartPost=: the subnet only changes when its lease was lost.
set -eu
subnet_env=${1:-/run/flannel/subnet.env}
conflist=${2:-/etc/cni/net.d/10-flannel.conflist}

[ -r "$subnet_env" ] || { echo "$0: cannot read $subnet_env: flanneld writes it once it has a subnet" >&2 && exit 1; }
value() {
    sed -n "s/^$1=\([^ #]*\).*/\1/p" "$subnet_env" | tail -n 1
}

# host-local wants the network's own address; flanneld wrote the one after it, x.y.z.1/24 or x::1/64.
network() {
    address=${1%/*}
    case $address in
    *:*) last=${address##*:} && printf '%s%x/%s' "${address%"$last"}" $((0x$last - 1)) "${1#*/}" ;;
    *) last=${address##*.} && printf '%s%d/%s' "${address%"$last"}" $((last - 1)) "${1#*/}" ;;
    esac
}

ranges=
routes=
for family in SUBNET=0.0.0.0/0 IPV6_SUBNET=::/0; do
    subnet=$(value "FLANNEL_${family%=*}")
    [ "$subnet" ] || continue
    ranges="${ranges:+$ranges, }[{ \"subnet\": \"$(network "$subnet")\" }]"
    routes="${routes:+$routes, }{ \"dst\": \"${family#*=}\" }"
done
mtu=$(value FLANNEL_MTU)
[ "$ranges" ] && [ "$mtu" ] || { echo "$0: no subnet or no MTU in $subnet_env" >&2 && exit 1; }
# One of the two masquerades, not both.
masquerade=true
[ "$(value FLANNEL_IPMASQ)" != true ] || masquerade=false

# Renamed into place, so that the container runtime never reads one half.
new=$(dirname "$conflist")/.$(basename "$conflist").new
cat >"$new" <<EOF
{
  "name": "flannel",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "hairpinMode": true,
      "ipMasq": $masquerade,
      "mtu": $mtu,
      "ipam": {
        "type": "host-local",
        "ranges": [$ranges],
        "routes": [$routes]
      }
    },
    {
      "type": "portmap",
      "capabilities": { "portMappings": true }
    }
  ]
}
EOF
mv "$new" "$conflist"
