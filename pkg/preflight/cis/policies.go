package cis

import "fmt"

const own = "what a microVM has in place of it is the Pod's own: "

// seen asks about the cluster, where one answers.
func seen(look func(Cluster) verdict) func(Facts) verdict {
	return func(f Facts) verdict {
		if f.Cluster == nil {
			return warn("not looked at: no server answers here", "run it on a host whose server runs, as root")
		}
		return look(*f.Cluster)
	}
}

// none asks that a list is empty.
func none(list func(Cluster) []string, good, bad, do string) func(Facts) verdict {
	return seen(func(c Cluster) verdict {
		if l := list(c); len(l) > 0 {
			return warn(bad+": "+some(l), do)
		}
		return pass(good)
	})
}

func policies() []check {
	const byRoles = "the roles that `nodeless user create` gives do not have it (docs/users.md); roles that you make are yours to look at"
	return []check{
		{"5.1.1", "few are administrators", none(func(c Cluster) []string { return c.ClusterAdmins }, "nobody beside the administrator of this host", "bound to cluster-admin",
			"see who needs it; `nodeless user create --operator` makes users who run the cluster without it")},
		never("5.1.2", "few read Secrets", "a tenant reads those of its own namespaces, an operator none (docs/users.md); roles that you make are yours to look at"),
		{"5.1.3", "roles name what they allow", none(func(c Cluster) []string { return c.WildcardRoles }, "no role of yours allows everything", "allow everything", "name verbs and resources in them")},
		never("5.1.4", "few make Pods", "what a Pod may have is an allow-list for whoever makes it"),
		{"5.1.5-5.1.6", "Pods get a token only where they need one", none(func(c Cluster) []string { return c.DefaultAccounts }, "no default account's token is mounted", "the default account's token is mounted in",
			"set automountServiceAccountToken: false on it; the account has no rights unless you give it some")},
		{"5.1.7", "nobody is in system:masters", masters()},
		never("5.1.8-5.1.13", "few may act as others, make volumes, reach nodes, sign, hook into admission or make tokens", byRoles),
		never("5.2.1", "something decides what a Pod may be", "the server's own admission, for every Pod: an allow-list that is closed by default; Pod Security Admission works as well"),
		never("5.2.2-5.2.6, 5.2.8-5.2.10", "few Pods are privileged, share the host's namespaces or have capabilities", own+"privileged is root in it, hostNetwork, hostPID and hostIPC are its own"),
		never("5.2.7", "few containers run as root", own+"root in it is not root of the host. Pod Security Admission can ask for more"),
		never("5.2.11", "no Windows containers act as the host", "there are no Windows nodes"),
		never("5.2.12", "few Pods mount the host's folders", "hostPath is refused, except where the operator allows a namespace"),
		never("5.2.13", "few Pods take ports of the host", "hostPort is the Node's, as NodePorts are; use a quota or Pod Security Admission to forbid it"),
		{"5.3.1-5.3.2", "network policies hold between namespaces", func(Facts) verdict {
			return warn("NetworkPolicy is not enforced yet; kubectl is told so when one is made", "do not rely on policies; docs/security.md says what holds without them")
		}},
		never("5.4.1-5.4.2", "Secrets are files, or elsewhere", "a matter of the workloads; both work"),
		never("5.5.1", "images are proved", "no webhook for images is set up; one can be connected with --kube-apiserver-arg"),
		{"5.6.1", "users have namespaces of their own, with a quota", quotas()},
		never("5.6.2-5.6.3", "Pods have a security context", "their system calls go to the kernel of their microVM; what a Pod asks for works there"),
		{"5.6.4", "the namespace default is empty", seen(func(c Cluster) verdict {
			if c.InDefault > 0 {
				return warn(fmt.Sprintf("%d Pods are in it", c.InDefault), "give each user a namespace: `nodeless user create NAME --namespaces …`")
			}
			return pass("no Pods in it")
		})},
	}
}

func quotas() func(Facts) verdict {
	return seen(func(c Cluster) verdict {
		switch {
		case len(c.WithoutQuota) > 0:
			return warn("without a ResourceQuota: "+some(c.WithoutQuota), "make one, so that one user cannot take the host from the others")
		case c.TenantNamespaces == 0:
			return notApplicable("no user has a namespace")
		}
		return pass(fmt.Sprintf("%d namespaces of users, each with a quota", c.TenantNamespaces))
	})
}
