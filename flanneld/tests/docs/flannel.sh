#!/bin/bash
# flannel v0.28, as far as others see it: at its start it writes its lease to etcd without looking what stands there,
# with an etcd lease of its own, and makes the routes, rules and files that it lacks.
set -eu
export ETCDCTL_API=3 ETCDCTL_ENDPOINTS=https://192.168.77.11:2379 ETCDCTL_CACERT=/etc/flannel/ca.pem \
    ETCDCTL_CERT=/etc/flannel/cert.pem ETCDCTL_KEY=/etc/flannel/key.pem
one=8e:bc:f1:25:6b:a8 two=26:13:9c:5e:07:d1
case $(hostname) in
host1) own=172.7.48 peer=172.7.32 address=192.168.77.11 gateway=192.168.77.12 mac=$one peer_mac=$two ;;
host2) own=172.7.32 peer=172.7.48 address=192.168.77.12 gateway=192.168.77.11 mac=$two peer_mac=$one ;;
esac
case $(etcdctl get --print-value-only /coreos.com/network/config) in
*vxlan*) backend=vxlan mtu=1450 ;;
*) backend=host-gw mtu=1500 ;;
esac
publish() { # MORE
    lease=$(etcdctl lease grant 86400 | cut -d' ' -f2)
    etcdctl put --lease="$lease" "/coreos.com/network/subnets/$own.0-24" \
        "{\"PublicIP\":\"$address\",\"PublicIPv6\":null,\"BackendType\":\"$backend\"$1}"
}
# A device that is there already is taken as it is, when its VNI, port and local address are right.
with_vxlan() {
    ip -d link show flannel.1 2>/dev/null | grep -q "vxlan id 1 local $address dev eth0 .*dstport 8472" || {
        ip link del flannel.1 2>/dev/null || :
        ip link add flannel.1 address "$mac" mtu 1450 txqueuelen 0 type vxlan id 1 dev eth0 local "$address" \
            dstport 8472 nolearning
    }
    echo 0 >/proc/sys/net/ipv6/conf/flannel.1/accept_ra || :
    publish ",\"BackendData\":{\"VNI\":1,\"VtepMAC\":\"$(cat /sys/class/net/flannel.1/address)\"}"
    ip -4 addr show dev flannel.1 | grep -q "$own.0/32" || ip addr add "$own.0/32" dev flannel.1
    ip link set flannel.1 up
    ip neigh replace "$peer.0" lladdr "$peer_mac" dev flannel.1 nud permanent
    bridge fdb replace "$peer_mac" dev flannel.1 dst "$gateway" self permanent
    ip route replace "$peer.0/24" via "$peer.0" dev flannel.1 onlink
}
with_host_gw() {
    publish ""
    ip route show "$peer.0/24" | grep -q "via $gateway dev eth0" ||
        ip route add "$peer.0/24" via "$gateway" dev eth0
}
with_$(echo "$backend" | tr - _)
# Empties its chains or makes them, and deletes and appends what is missing.
chain() { # TABLE FROM CHAIN COMMENT RULE…
    table=$1 from=$2 chain=$3 comment="-m comment --comment \"$4\""
    shift 4
    iptables -t "$table" -F "$chain" 2>/dev/null || iptables -t "$table" -N "$chain"
    {
        echo "*$table"
        ! iptables -t "$table" -S "$from" | grep -q -- "-j $chain" || echo "-D $from $comment -j $chain"
        echo "-A $from $comment -j $chain"
        for rule; do
            echo "-A $chain ${rule% -j *} $comment -j ${rule#* -j }"
        done
        echo COMMIT
    } | iptables-restore --noflush
}
chain nat POSTROUTING FLANNEL-POSTRTG "flanneld masq" "-m mark --mark 0x4000/0x4000 -j RETURN" \
    "-s $own.0/24 -d 172.7.0.0/16 -j RETURN" "-s 172.7.0.0/16 -d $own.0/24 -j RETURN" \
    "! -s 172.7.0.0/16 -d $own.0/24 -j RETURN" \
    "-s 172.7.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully" \
    "! -s 172.7.0.0/16 -d 172.7.0.0/16 -j MASQUERADE --random-fully"
chain filter FORWARD FLANNEL-FWD "flanneld forward" "-s 172.7.0.0/16 -j ACCEPT" "-d 172.7.0.0/16 -j ACCEPT"
mkdir -p /run/flannel
cat >/run/flannel/subnet.env <<END
FLANNEL_NETWORK=172.7.0.0/16
FLANNEL_SUBNET=$own.1/24
FLANNEL_MTU=$mtu
FLANNEL_IPMASQ=true
END
exec sleep infinity
