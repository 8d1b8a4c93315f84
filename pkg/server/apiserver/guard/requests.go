package guard

import (
	"fmt"
	"net/http"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// retryAfter is when one who has too much open is to try again, in seconds.
const retryAfter = 5

// Requests bounds how many requests each has open that last: watches, logs that are followed, and what gets into a Pod. Fairness
// (API Priority and Fairness, Kubernetes 1.37) lets go of a watch once it has begun, and never sees the others.
type Requests struct {
	most       int // none when it is 0
	lasting    request.LongRunningRequestCheck
	authorizer authorizer.Authorizer
	serializer runtime.NegotiatedSerializer

	mu   sync.Mutex
	open map[string]int // guarded by mu
}

// NewRequests gives a bound that counts nothing yet.
func NewRequests(most int, lasting request.LongRunningRequestCheck, a authorizer.Authorizer, s runtime.NegotiatedSerializer) *Requests {
	return &Requests{most: most, lasting: lasting, authorizer: a, serializer: s, open: make(map[string]int)}
}

// Wrap bounds what next serves. It is to come after authorization.
func (r *Requests) Wrap(next http.Handler) http.Handler {
	if r.most == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		ctx := req.Context()
		info, known := request.RequestInfoFrom(ctx)
		who, named := request.UserFrom(ctx)
		if !known || !named || !r.lasting(req, info) || isSystem(who) {
			next.ServeHTTP(w, req)
			return
		}
		name := holder(who)
		if !r.begin(name) && !r.unbound(req, who) {
			err := apierrors.NewTooManyRequests(fmt.Sprintf("%s has %d requests open that last (watches, followed logs, exec, attach, port-forward, proxy), which is all that one may have; "+
				"end some of them", name, r.most), retryAfter)
			responsewriters.ErrorNegotiated(err, r.serializer, schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion}, w, req)
			return
		}
		defer r.end(name)
		next.ServeHTTP(w, req)
	})
}

// begin counts a request unless there are too many.
func (r *Requests) begin(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open[name] >= r.most {
		return false
	}
	r.open[name]++
	return true
}

func (r *Requests) end(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open[name]--; r.open[name] <= 0 {
		delete(r.open, name)
	}
}

// unbound tells whether one who has much open may have more, and counts the request. Whoever may watch all Pods, as operators do, sees
// everything anyway.
func (r *Requests) unbound(req *http.Request, who user.Info) bool {
	decision, _, _ := r.authorizer.Authorize(req.Context(), authorizer.AttributesRecord{User: who, Verb: "watch", APIVersion: "v1", Resource: "pods", ResourceRequest: true})
	if decision != authorizer.DecisionAllow {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[holder(who)]++
	return true
}

// isSystem tells that one is a part of the cluster: of the control plane, a node, or a ServiceAccount of the cluster's own namespaces.
func isSystem(who user.Info) bool {
	for _, group := range who.GetGroups() {
		if group == user.SystemPrivilegedGroup || group == user.NodesGroup {
			return true
		}
	}
	name := who.GetName()
	if namespace, _, err := serviceaccount.SplitUsername(name); err == nil {
		return strings.HasPrefix(namespace, "kube-")
	}
	return strings.HasPrefix(name, "system:") && name != user.Anonymous
}

// holder is for whom a request is counted. ServiceAccounts of a namespace are counted together: whoever makes one can make many.
func holder(who user.Info) string {
	if namespace, _, err := serviceaccount.SplitUsername(who.GetName()); err == nil && namespace != metav1.NamespaceNone {
		return fmt.Sprintf("all ServiceAccounts of namespace %q together", namespace)
	}
	return fmt.Sprintf("user %q", who.GetName())
}
