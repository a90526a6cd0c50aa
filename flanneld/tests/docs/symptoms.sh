# What the cases of symptoms.rs are written in. For the shell of host1, where etcd runs as the page has it.

# A CA of another cluster.
authority() { # NAME
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout $1-key.pem -out $1.pem
}

# Signed by $CA, or by that of the page. Without extensions of X.509 version 1, as openssl before 3.2 makes it.
certificate() { # NAME EXTENSIONS
    ca=${CA:-/etc/flannel/ca}
    if [ ! "$2" ] && openssl req -help 2>&1 | grep -q x509v1; then
        openssl req -x509 -x509v1 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -CA $ca.pem \
            -CAkey $ca-key.pem -keyout $1-key.pem -out $1.pem
        return
    fi
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout $1-key.pem -out $1.csr &&
    echo "$2" >$1.ext &&
    openssl x509 -req -in $1.csr -CA $ca.pem -CAkey $ca-key.pem -CAcreateserial ${2:+-extfile $1.ext} -out $1.pem
}

# A second etcd with this certificate.
serve() { # NAME
    cat >/etc/systemd/system/other-etcd.service <<END
[Service]
Type=notify
ExecStart=/usr/bin/etcd --name=$1 --data-dir=/root/$1.etcd --listen-client-urls=https://192.168.77.11:2389 \
  --advertise-client-urls=https://192.168.77.11:2389 --listen-peer-urls=http://127.0.0.1:2381 \
  --cert-file=/root/$1.pem --key-file=/root/$1-key.pem
END
    systemctl start other-etcd
}

# One with API v2, and without TLS.
serve_v2() {
    cat >/etc/systemd/system/other-etcd.service <<END
[Service]
Type=notify
ExecStart=/usr/bin/etcd --name=v2 --data-dir=/root/v2.etcd --listen-client-urls=http://127.0.0.1:2389 \
  --advertise-client-urls=http://127.0.0.1:2389 --listen-peer-urls=http://127.0.0.1:2381 --enable-v2
END
    systemctl start other-etcd
}

v2() {
    ETCDCTL_API=2 etcdctl --endpoints http://127.0.0.1:2389 "$@"
}

# A program that is not installed, until `umount "$hidden"`.
hide() { # NAME
    hidden=$(readlink -f "$(command -v $1)")
    mount --bind /dev/null "$hidden"
}

# The chain of firewalld 2.0 that forwarded packets come through.
firewalld() {
    nft -f - <<END
table inet firewalld {
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname "lo" accept
        ct state invalid drop
        jump filter_FORWARD_POLICIES
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD_POLICIES {
    }
}
END
}

# A program that has the UDP port of vxlan.
hold_port() {
    perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(Proto => "udp", LocalPort => 8472) or die; sleep 3600' &
    holder=$!
    until ss -lun | grep -q :8472; do sleep 0.05; done
}

BLUE='--etcd-prefix=/coreos.com/blue --subnet-file=/run/flannel/blue.env --route-protocol=71 --subnet= --healthz-port=0'

# A second network of this host, with vxlan.
begin_blue() {
    etcdctl put /coreos.com/blue/config '{"Network":"172.8.0.0/16","Backend":{"Type":"vxlan"}}' &&
    begin blue $BLUE && until grep -q 'routes are in place' blue.log; do sleep 0.05; done
}

end_blue() {
    end blue
    flanneld cleanup $BLUE
    etcdctl del --prefix /coreos.com/blue
}

# A flanneld whose log is NAME.log.
begin() { # NAME FLAGS…
    name=$1
    shift
    rm -f $name.log
    flanneld "$@" >$name.log 2>&1 &
    eval "$name=$!"
}

end() { # NAME
    eval "pid=\$$1"
    kill $pid
    wait $pid
}

# As every case finds it.
restore() {
    set -a; . /etc/default/flanneld; set +a
    etcdctl del --prefix /coreos.com/network &&
    etcdctl put /coreos.com/network/config '{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}' &&
    flanneld cleanup
}
