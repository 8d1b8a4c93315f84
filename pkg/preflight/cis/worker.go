package cis

import (
	"fmt"
	"strings"
	"time"
)

const dropKubeletArg = "leave out the --kubelet-arg that changes it"

// setting asks that a setting of the kubelet holds.
func setting(holds func(Kubelet) bool, yes, no string) func(Facts) verdict {
	return func(f Facts) verdict {
		if holds(f.Kubelet) {
			return pass(yes)
		}
		return warn(no, dropKubeletArg)
	}
}

func kubelet() []check {
	return []check{
		{"4.2.1", "strangers get no answer from the kubelet", setting(func(k Kubelet) bool { return !k.Authentication.Anonymous.Enabled }, "401", "strangers are let in")},
		{"4.2.2", "the kubelet asks the apiserver who may do what", setting(func(k Kubelet) bool {
			return k.Authorization.Mode == "Webhook" && k.Authentication.Webhook.Enabled
		}, "mode Webhook", "it does not ask")},
		{"4.2.3", "the kubelet's clients prove themselves by certificates", setting(func(k Kubelet) bool { return k.Authentication.X509.ClientCAFile != "" }, "of the client authority", "no authority is set")},
		{"4.2.4", "the port without a password is closed", setting(func(k Kubelet) bool { return k.ReadOnlyPort == 0 }, "closed", "open")},
		{"4.2.5", "an idle stream ends", func(f Facts) verdict {
			if d, err := time.ParseDuration(f.Kubelet.StreamingIdle); err != nil || d <= 0 {
				return warn("never", dropKubeletArg)
			}
			return pass("after " + f.Kubelet.StreamingIdle)
		}},
		{"4.2.6", "the kubelet makes the packet rules it relies on", func(f Facts) verdict {
			if f.Kubelet.MakeIPTablesUtilChains {
				return pass("it makes them")
			}
			return notApplicable("kube-proxy in nftables mode and pkg/netdev make every rule; the kubelet's chains for iptables mode are used by nobody")
		}},
		never("4.2.7", "the node's name is the host's", "a node is named after the host that it stands for; one host makes the certificate and the name"),
		{"4.2.8", "the kubelet's events are bounded", func(f Facts) verdict { return pass(fmt.Sprintf("%d a second", f.Kubelet.EventRecordQPS)) }},
		{"4.2.9", "the kubelet serves with a certificate of the cluster", setting(func(k Kubelet) bool { return k.TLSCertFile != "" && k.TLSPrivateKeyFile != "" }, "of the server authority", "with one that it signs itself")},
		{"4.2.10-4.2.11", "the kubelet's certificates are renewed", renewed()},
		{"4.2.12", "the kubelet's TLS has strong ciphers only", func(f Facts) verdict { return ciphers(f.Kubelet.TLSCipherSuites, "") }},
		{"4.2.13", "a Pod cannot take every process of the host", func(f Facts) verdict {
			if f.Kubelet.PodPidsLimit > 0 {
				return pass(fmt.Sprintf("%d a Pod", f.Kubelet.PodPidsLimit))
			}
			return notApplicable("a Pod's processes are in the kernel of its microVM, not the host's")
		}},
		never("4.2.14", "containers have a filter of system calls by default", "their system calls go to the kernel of their microVM, not the host's; `seccompProfile` in a Pod works there"),
		never("4.2.15", "the kubelet's service talks to chosen addresses only", "control plane and kubelet are one service, which clients must reach; use a firewall on the host (docs/security.md)"),
		{"4.3.1", "kube-proxy's figures cannot be reached from outside", func(f Facts) verdict {
			if len(f.Proxy) == 0 {
				return notApplicable("kube-proxy was left out")
			}
			address := f.Proxy.last("metrics-bind-address")
			if address == "" || strings.HasPrefix(address, "127.0.0.1") {
				return pass("on loopback")
			}
			return warn("on "+address, "leave out the --kube-proxy-arg that changes it")
		}},
	}
}
