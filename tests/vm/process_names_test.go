package vm_test

import (
	"strings"
	"testing"
	"time"
)

// names has a Pod for each way of being called and of looking others up.
const names = `
apiVersion: v1
kind: Pod
metadata: {name: cluster}
spec:
  restartPolicy: Never
  hostname: front
  subdomain: stage
  hostAliases: [{ip: 10.9.8.7, hostnames: [old.example.org, old]}]
  dnsConfig: {options: [{name: ndots, value: "2"}, {name: edns0}], searches: [more.example.org]}
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "TELL"]
---
apiVersion: v1
kind: Pod
metadata: {name: full}
spec:
  restartPolicy: Never
  subdomain: stage
  setHostnameAsFQDN: true
  dnsPolicy: None
  dnsConfig: {nameservers: [192.0.2.1, 192.0.2.2], searches: [one.example.org], options: [{name: timeout, value: "3"}]}
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "TELL"]
---
apiVersion: v1
kind: Pod
metadata: {name: override}
spec:
  restartPolicy: Never
  hostnameOverride: anything.example.org
  dnsPolicy: Default
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "TELL"]
`

// tellNames prints what a process is called and where it looks up others.
// tellNames prints the resolver's options sorted: the kubelet merges the cluster's and the Pod's through a map, in no order.
const tellNames = `
      echo hostname=$(hostname)
      echo kernel=$(cat /proc/sys/kernel/hostname)
      echo own=$(grep $(hostname -i) /etc/hosts | tr '\t' ' ')
      echo alias=$(grep 10.9.8.7 /etc/hosts | tr '\t' ' ')
      echo servers=$(awk '/^nameserver/ {print $2}' /etc/resolv.conf)
      echo search=$(sed -n 's/^search //p' /etc/resolv.conf)
      echo options=$(sed -n 's/^options //p' /etc/resolv.conf | tr ' ' '\n' | sort)
      echo end
`

func TestNamesAndResolvers(t *testing.T) {
	s := newSpace(t, 4*time.Minute)
	s.Apply(withScript(names, tellNames))
	domain := s.Name + ".svc.cluster.local"
	host, err := s.Host.Exec(s.Ctx, "cat", "/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	for pod, wanted := range map[string]map[string]string{
		"cluster": {
			"hostname": "front", "kernel": "front", "alias": "10.9.8.7 old.example.org old", "servers": "10.43.0.10",
			"search":  domain + " svc.cluster.local cluster.local more.example.org",
			"options": "edns0 ndots:2",
		},
		"full": {
			"hostname": "full.stage." + domain, "kernel": "full.stage." + domain, "servers": "192.0.2.1 192.0.2.2",
			"search": "one.example.org", "options": "timeout:3",
		},
		"override": {"hostname": "anything.example.org", "kernel": "anything.example.org"},
	} {
		got := s.facts(pod, "main")
		want(t, pod, got, wanted)
		if pod == "cluster" && !strings.HasSuffix(got["own"], " front.stage."+domain+" front") {
			t.Errorf("its line in /etc/hosts is %q", got["own"])
		}
		if pod == "override" && !hasAll(host, strings.Fields(got["servers"])) {
			t.Errorf("dnsPolicy Default gives %q, the host has %q", got["servers"], host)
		}
	}
}
