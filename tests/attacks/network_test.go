package attacks_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nodeless/nodeless/tests/attack"
	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// TestAttackNetwork: root in a microVM with all capabilities attacks its host's network and the Pod beside it. The same is tried with
// packets of all kinds, without microVMs, in tests/netns.
func TestAttackNetwork(t *testing.T) {
	s := testcluster.NewSpace(t, shared, 4*time.Minute)
	s.Apply(testcluster.Sleeper("victim", ""))
	s.Apply(testcluster.Sleeper("mallory", "    securityContext: {privileged: true}\n"))
	victim, mallory := s.Ready("victim"), s.Ready("mallory")
	address, own := victim.Status.PodIP, mallory.Status.PodIP
	s.MustExec("victim", "sh", "-c", "mkdir /tmp/www; echo hello >/tmp/www/index.html; httpd -p 80 -h /tmp/www")
	// honest does what every Pod may.
	honest := func(t *testing.T) {
		t.Helper()
		s.MustExec("mallory", "ping", "-c", "1", "-W", "2", "10.42.0.1")
		s.MustExec("mallory", "/hello", "get", "http://"+address+"/")
		s.MustExec("mallory", "/hello", "resolve", "kubernetes.default.svc.cluster.local")
	}
	honest(t)

	attack.Try(t, "T3", "a guest takes addresses of others", func(t *testing.T) attack.Outcome {
		before := dropped(t)
		s.MustExec("mallory", "sh", "-c", fmt.Sprintf("for a in %s 10.42.0.240 192.0.2.7; do ip addr add $a/32 dev eth0; ping -c 1 -W 1 -I $a %s; "+
			"ip addr del $a/32 dev eth0; ip route replace 10.42.0.1 dev eth0; done; true", address, testbed.NodeIP))
		s.MustExec("mallory", "sh", "-c", "ip route show | grep -q default || ip route add default via 10.42.0.1")
		honest(t)
		if after := dropped(t); after < before+3 {
			t.Logf("%d packets were dropped", after-before)
			return attack.Succeeded
		}
		return attack.Contained
	})
	attack.Try(t, "T13", "a guest asks for its gateway in the name of many", func(t *testing.T) attack.Outcome {
		s.MustExec("mallory", "sh", "-c", "for i in $(seq 2 101); do ip addr add 10.42.7.$i/32 dev eth0; arping -q -c 1 -w 1 -s 10.42.7.$i -I eth0 10.42.0.1 & done; wait; "+
			"for i in $(seq 2 101); do ip addr del 10.42.7.$i/32 dev eth0; done")
		known := command(t, "ip", "-4", "neigh", "show")
		honest(t)
		if n := strings.Count(known, "10.42.7."); n > 0 {
			t.Logf("the host knows %d of them", n)
			return attack.Succeeded
		}
		return attack.Contained
	})
	connect := func(host string, port int) int {
		_, code := s.Exec("mallory", "nc", "-w", "2", host, strconv.Itoa(port), "-e", "true")
		return code
	}
	for _, host := range []string{"10.42.0.1", testbed.NodeIP} {
		if code := connect(host, 6443); code != 0 {
			t.Errorf("a guest does not reach the apiserver at %s: exit code %d", host, code)
		}
		attack.Try(t, "T3", "a guest connects to the kubelet at "+host, func(t *testing.T) attack.Outcome {
			if connect(host, 10250) == 0 {
				return attack.Succeeded
			}
			return attack.Refused
		})
	}
	if got := s.Ready("mallory").Status.PodIP; got != own {
		t.Errorf("the attacker has the address %s, had %s", got, own)
	}
}

// dropped is how many packets the host has dropped because their senders were not who they said.
func dropped(t *testing.T) (packets int) {
	t.Helper()
	for line := range strings.Lines(command(t, filepath.Join(filepath.Dir(shared.Host.Program), "..", "aux", "nft"), "list", "chain", "inet", "nodeless", "pod_early")) {
		if _, rest, found := strings.Cut(line, "@source counter packets "); found {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			packets += n
		}
	}
	return packets
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := shared.Host.Command(ctx, append([]string{name}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}
