// Package testbed makes test hosts: a host is a set of network, mount and PID namespaces with its own /run, /etc,
// /var and cgroup root, in which the real product runs as root without touching the machine. When the process that made it
// dies, the host's init dies, and with its PID namespace every process in it.
//
// tests/vm, tests/bench and the demo use it. A program that starts hosts calls Reexec first thing in main or TestMain.
package testbed
