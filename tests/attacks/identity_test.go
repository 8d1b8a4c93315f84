package attacks_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/tests/attack"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// TestAttackIdentity: one who has got into a Pod takes its token away, and one who has a namespace takes more of the host than was given.
func TestAttackIdentity(t *testing.T) {
	s := newTenant(t, shared, "identity")
	s.Apply(testcluster.Sleeper("a", ""))
	s.Ready("a")
	attack.Try(t, "T17", "use the token of a Pod for long", func(t *testing.T) attack.Outcome {
		parts := strings.Split(s.MustExec("a", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"), ".")
		if len(parts) != 3 {
			t.Fatalf("the token has %d parts", len(parts))
		}
		text, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			t.Fatal(err)
		}
		var claims struct {
			Exp int64 `json:"exp"`
		}
		if err := json.Unmarshal(text, &claims); err != nil {
			t.Fatal(err)
		}
		left := time.Until(time.Unix(claims.Exp, 0))
		t.Logf("the token is valid for %s more", left.Round(time.Second))
		if left > 2*time.Hour {
			return attack.Succeeded
		}
		return attack.Contained
	})
	attack.Try(t, "T6", "take of the host what no quota counts", func(t *testing.T) attack.Outcome {
		quota, err := s.Client.CoreV1().ResourceQuotas(s.Name).Get(s.Ctx, "nodeless-tenant", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []corev1.ResourceName{"pods", "requests.cpu", "limits.cpu", "requests.memory", "limits.memory", "limits.ephemeral-storage", "count/pods"} {
			used, hard := quota.Status.Used[name], quota.Status.Hard[name]
			if used.IsZero() || hard.IsZero() {
				t.Errorf("of %s the quota counts %s of %s for a Pod that runs", name, used.String(), hard.String())
			}
		}
		return attack.Contained
	})
}
