#!/bin/sh
# Runs inside the machine: prints its state, one fact a line, so that two states can be compared by sort and comm.
# What systemd and the kernel change by themselves is left out, and so are this script and the ssh that runs it.
set -u
modprobe nf_conntrack # stays loaded when whoever used it has gone, and brings settings that shall be as they were
as() { sed "s/^/$1: /"; }

for p in /proc/[0-9]*; do
	tr '\0' ' ' <"$p/cmdline" && echo
done 2>/dev/null | grep -Ev '^$|^(sshd|sh|tr|grep|sed|sort|/usr/sbin/sshd|/usr/lib/openssh/|/lib/systemd/systemd-(timedated|hostnamed)|\(sd-pam\)|\(udev-worker\))' | sort | as process
awk '{ print $5, $9 == "-" ? $10 : $9, $(NF - 1) }' /proc/self/mountinfo | grep -v '^/proc/sys/fs/binfmt_misc' | sort | as mount
find /sys/fs/cgroup -type d | grep -Ev '/(session|user|run)-|ssh\.service/|sshd@|systemd-(timedated|hostnamed)|modprobe@|binfmt_misc' | sort | as cgroup
ip -o link | awk '{ print $2, $3 }' | sort | as link
ip -4 route show table all | as route
ip -6 route show table all | grep -v ' proto ra ' | as route6
ip rule | as rule
ip -6 rule | as rule6
ip netns | as netns
nft --stateless list ruleset 2>/dev/null | as nft
systemctl list-unit-files --no-legend --no-pager | awk '{ print $1, $2 }' | sort | as unit
systemctl list-units --all --failed --no-legend --plain --no-pager | awk '{ print $1, $3 }' | sort | as failed
sysctl -a 2>/dev/null | grep -v nf_conntrack_count | grep -E '^(net\.ipv[46]\.(ip_forward|conf\.(all|default)|neigh\.default|ip_unpriv)|net\.(bridge|netfilter|core\.(rmem|wmem|somaxconn))|kernel\.(panic|keys)|vm\.(overcommit|panic|max_map)|fs\.inotify)' | as sysctl
losetup -a | as loop
find /tmp /var/tmp -mindepth 1 -maxdepth 1 ! -name 'systemd-private*' | sort | as temporary
find /run -mindepth 1 \( -path /run/systemd -o -path /run/udev -o -path /run/log -o -path /run/user -o -path /run/credentials \) -prune -o -print | sort | as run
find /var/lib -mindepth 1 \( -path /var/lib/systemd -o -path /var/lib/dpkg \) -prune -o -print | sort | as lib
find /etc /usr /opt /srv /home "$HOME" -mindepth 1 -path '*/.ssh' -prune -o -printf '%p %y %m %s\n' | sort | as file
