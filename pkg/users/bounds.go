package users

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/kube"
)

// boundsName is the name of the ResourceQuota and the LimitRange of a tenant's namespace.
const boundsName = "nodeless-tenant"

// countTimeout is how long the controller-manager has to count what a namespace holds. It takes less than a second.
const countTimeout = 30 * time.Second

// none is what turns a bound off.
const none = "none"

// Bounds is what a tenant's namespace may hold. Nothing is bounded where it is empty.
type Bounds struct {
	Quota    corev1.ResourceList // the hard limits of a ResourceQuota
	MaxClaim *resource.Quantity  // the most that one PersistentVolumeClaim may ask for, in a LimitRange
}

// DefaultBounds is what a namespace may hold when nobody says anything. It has a number for each kind that nodeless:tenant can make, but
// for events, which the apiserver limits by their rate; and for what controllers make of these without an end, revisions.
func DefaultBounds() Bounds {
	claim := resource.MustParse("1Ti")
	out := Bounds{Quota: make(corev1.ResourceList), MaxClaim: &claim}
	for name, amount := range map[corev1.ResourceName]string{
		"pods": "50", "requests.cpu": "64", "limits.cpu": "64", "requests.memory": "256Gi", "limits.memory": "256Gi",
		"requests.ephemeral-storage": "2Ti", "limits.ephemeral-storage": "2Ti", "requests.storage": "2Ti",
		"count/pods":       "500", // with those that have ended
		"count/configmaps": "200", "count/secrets": "200", "count/serviceaccounts": "50", "count/persistentvolumeclaims": "50",
		"count/services": "50", "services.nodeports": "20", "services.loadbalancers": "10", // the cluster's ports are for all
		"count/replicationcontrollers": "50", "count/deployments.apps": "50", "count/replicasets.apps": "500", "count/statefulsets.apps": "50",
		"count/daemonsets.apps": "20", "count/controllerrevisions.apps": "500", "count/jobs.batch": "200", "count/cronjobs.batch": "50",
		"count/horizontalpodautoscalers.autoscaling": "50", "count/horizontalpodcronscalers.autoscaling.cloud.tencent.com": "20",
		"count/ingresses.networking.k8s.io": "50", "count/networkpolicies.networking.k8s.io": "50", "count/poddisruptionbudgets.policy": "50",
		"count/leases.coordination.k8s.io": "50", "count/roles.rbac.authorization.k8s.io": "50", "count/rolebindings.rbac.authorization.k8s.io": "50",
	} {
		out.Quota[name] = resource.MustParse(amount)
	}
	return out
}

// WithQuota changes b by what somebody asks for: NAME=AMOUNT with the names of a ResourceQuota. cpu, memory and ephemeral-storage are
// both what Pods request and what they are limited to. NAME=none takes one away, and none alone takes all of them away.
func (b Bounds) WithQuota(changes []string) (Bounds, error) {
	b.Quota = maps.Clone(b.Quota)
	var errs []error
	for _, change := range changes {
		if change == none {
			if len(changes) > 1 {
				errs = append(errs, &hint.Error{Op: "use quota", On: none, Err: errors.New("there is more beside it"), Do: "give --quota none alone, for no quota at all"})
			}
			b.Quota = nil
			continue
		}
		name, amount, found := strings.Cut(change, "=")
		quantity, err := parseBound(amount)
		if !found || name == "" || err != nil {
			errs = append(errs, &hint.Error{Op: "use quota", On: fmt.Sprintf("%q", change), Err: errors.New("it is no NAME=AMOUNT"), Do: "write it as pods=100 or memory=64Gi, several separated by commas; the names are those of a ResourceQuota"})
			continue
		}
		for _, key := range quotaNames(name) {
			if b.Quota == nil {
				break
			}
			delete(b.Quota, key)
			if quantity != nil {
				b.Quota[key] = *quantity
			}
		}
	}
	return b, errors.Join(errs...)
}

// WithMaxClaim changes the most that one PersistentVolumeClaim may ask for.
func (b Bounds) WithMaxClaim(amount string) (Bounds, error) {
	quantity, err := parseBound(amount)
	if err != nil {
		return b, &hint.Error{Op: "use size", On: fmt.Sprintf("%q", amount), Err: err, Do: "write --max-claim as 100Gi, or none"}
	}
	b.MaxClaim = quantity
	return b, nil
}

// parseBound gives nil for none.
func parseBound(amount string) (*resource.Quantity, error) {
	if amount == none {
		return nil, nil
	}
	quantity, err := resource.ParseQuantity(amount)
	if err == nil && quantity.Sign() < 0 {
		err = errors.New("it is below zero")
	}
	return &quantity, err
}

// quotaNames are the names in a ResourceQuota of what people call name.
func quotaNames(name string) []corev1.ResourceName {
	switch corev1.ResourceName(name) {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		return []corev1.ResourceName{corev1.ResourceName("requests." + name), corev1.ResourceName("limits." + name)}
	}
	return []corev1.ResourceName{corev1.ResourceName(name)}
}

// bound gives ns its quota and its limits, unless it has such already, and waits until the quota is counted: until then the apiserver
// refuses what it counts. It says what it made, for the undoing.
func (k *Keeper) bound(ctx context.Context, ns, user string, b Bounds) (made bool, err error) {
	meta := metav1.ObjectMeta{Name: boundsName, Namespace: ns, Labels: map[string]string{Label: user}}
	if b.MaxClaim != nil {
		had, err := k.client.CoreV1().LimitRanges(ns).List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			return false, fault("list limits of namespace", ns, err)
		}
		if len(had.Items) == 0 {
			item := corev1.LimitRangeItem{Type: corev1.LimitTypePersistentVolumeClaim, Max: corev1.ResourceList{corev1.ResourceStorage: *b.MaxClaim}}
			limits := &corev1.LimitRange{ObjectMeta: meta, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{item}}}
			if _, err := k.client.CoreV1().LimitRanges(ns).Create(ctx, limits, metav1.CreateOptions{}); err != nil {
				return false, fault("make limits of namespace", ns, err)
			}
			made = true
		}
	}
	if len(b.Quota) == 0 {
		return made, nil
	}
	had, err := k.client.CoreV1().ResourceQuotas(ns).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil || len(had.Items) > 0 {
		return made, fault("list quotas of namespace", ns, err)
	}
	quota := &corev1.ResourceQuota{ObjectMeta: meta, Spec: corev1.ResourceQuotaSpec{Hard: b.Quota}}
	if _, err := k.client.CoreV1().ResourceQuotas(ns).Create(ctx, quota, metav1.CreateOptions{}); err != nil {
		return made, fault("make quota of namespace", ns, err)
	}
	return true, k.awaitCount(ctx, ns)
}

func (k *Keeper) awaitCount(ctx context.Context, ns string) error {
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	err := kube.Wait(ctx, "the quota to be counted", func(ctx context.Context) (bool, error) {
		quota, err := k.client.CoreV1().ResourceQuotas(ns).Get(ctx, boundsName, metav1.GetOptions{})
		return err == nil && len(quota.Status.Used) > 0, err
	})
	if err != nil {
		return &hint.Error{Op: "count what is in namespace", On: ns, Err: err, Do: "see whether the controller-manager runs: it counts, and the server's log says why it does not"}
	}
	return nil
}

// unbound takes back what bound made for the user.
func (k *Keeper) unbound(ctx context.Context, ns string) error {
	return errors.Join(
		kube.IgnoreNotFound(k.client.CoreV1().ResourceQuotas(ns).Delete(ctx, boundsName, metav1.DeleteOptions{})),
		kube.IgnoreNotFound(k.client.CoreV1().LimitRanges(ns).Delete(ctx, boundsName, metav1.DeleteOptions{})),
	)
}

// owners are the users who have to do with a namespace: those that have it among theirs, and the one that it was made for.
func (k *Keeper) owners(ctx context.Context, ns *corev1.Namespace) ([]string, error) {
	var names []string
	if made := ns.Labels[Label]; made != "" {
		names = append(names, made)
	}
	all, err := k.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, u := range all {
		if slices.Contains(u.Namespaces, ns.Name) {
			names = append(names, u.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
