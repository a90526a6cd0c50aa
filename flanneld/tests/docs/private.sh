# Becomes the shell of a host: what its commands write outside of /tmp is gone with them. The names of the directories
# are those of the documentation and of Debian's packages.
set -eu
hostname "$LABEL"
mount -t tmpfs -o mode=755 none /mnt
for directory in opt root run usr/local/sbin var/lib var/log; do
    mkdir -p "/mnt/$directory"
done
cp -a /etc /mnt
rm -rf /mnt/etc/default/etcd /mnt/etc/supervisor/conf.d/* /mnt/etc/systemd/system/multi-user.target.wants
mkdir -p /mnt/etc/default /mnt/var/log/supervisor /mnt/run/lock
if id etcd >/dev/null 2>&1; then
    mkdir /mnt/var/lib/etcd
    chown etcd:etcd /mnt/var/lib/etcd
    chmod 700 /mnt/var/lib/etcd
fi
for directory in etc opt root run usr/local/sbin var/lib var/log; do
    mount --bind "/mnt/$directory" "/$directory"
done
umount -l /mnt
for name in ask scp; do
    sed "s|@STAND_IN@|$STAND_IN|; s|@HOSTS@|$HOSTS|" "$SOURCE/$name.sh" >"/usr/local/sbin/$name"
    chmod 755 "/usr/local/sbin/$name"
done
ln -s ask /usr/local/sbin/systemctl
ln -s ask /usr/local/sbin/journalctl
unset HOSTS LABEL SOURCE STAND_IN
cd /root
set +eu
