package podsize

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Why tells what makes a Pod larger than the requests of its containers do, and what it would get without that. It says nothing where
// leaving that out would get the Pod no smaller spec.
func (c Catalog) Why(pod *corev1.PodSpec, wish Wish, got Size) (text string, without Size) {
	if wish.Named() {
		return "", Size{}
	}
	noInits := func(p *corev1.PodSpec) { p.InitContainers = slices.DeleteFunc(p.InitContainers, passing) }
	noWhole := func(p *corev1.PodSpec) { p.Resources = nil }
	for _, cause := range []struct {
		leave func(*corev1.PodSpec)
		text  func(without Size) string
	}{
		{noInits, func(s Size) string { return initsBeyond(pod, c.Rules, s) }},
		{noLimits, func(s Size) string { return limitsBeyond(pod, s) }},
		{noWhole, func(Size) string { return "spec.resources asks for more than the containers do" }},
		{func(p *corev1.PodSpec) { noInits(p); noLimits(p); noWhole(p) }, func(Size) string { return "limits and init containers count" }},
	} {
		if s, ok := c.smaller(pod, wish, got, cause.leave); ok {
			return cause.text(s), s
		}
	}
	return "", Size{}
}

// smaller is what the Pod would get with something left out, if that is less.
func (c Catalog) smaller(pod *corev1.PodSpec, wish Wish, got Size, leave func(*corev1.PodSpec)) (Size, bool) {
	part := &corev1.PodSpec{InitContainers: slices.Clone(pod.InitContainers), Containers: slices.Clone(pod.Containers), Resources: pod.Resources}
	leave(part)
	s, err := c.Fit(wish.On(DemandOf(part, c.Rules)))
	return s, err == nil && s.CPU <= got.CPU && s.Memory <= got.Memory && s.GPU <= got.GPU && (s.CPU < got.CPU || s.Memory < got.Memory || s.GPU < got.GPU)
}

// passing tells that an init container ends before the others begin.
func passing(c corev1.Container) bool {
	return c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways
}

// noLimits leaves the containers their requests. A limit without a request is one.
func noLimits(pod *corev1.PodSpec) {
	for _, set := range [][]corev1.Container{pod.InitContainers, pod.Containers} {
		for i := range set {
			requests := corev1.ResourceList{}
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, GPUResource} {
				if q, ok := set[i].Resources.Requests[name]; ok {
					requests[name] = q
				} else if q, ok := set[i].Resources.Limits[name]; ok {
					requests[name] = q
				}
			}
			set[i].Resources = corev1.ResourceRequirements{Requests: requests}
		}
	}
}

// initsBeyond names the init containers for which a spec is too little.
func initsBeyond(pod *corev1.PodSpec, rules Rules, s Size) string {
	var names []string
	silent := true
	for _, c := range pod.InitContainers {
		if !passing(c) {
			continue
		}
		one := together([]corev1.Container{c})
		nothing := one.CPU == 0 && one.Memory == 0
		if nothing && rules.Init2026 {
			one.CPU, one.Memory = usualCPU, usualMemory
		}
		if !s.covers(one) {
			names, silent = append(names, c.Name), silent && nothing
		}
	}
	switch {
	case len(names) == 0: // it is those together with the sidecars before them
		return "an init container runs while sidecars do"
	case silent:
		return fmt.Sprintf("%s nothing, which counts as %s", verb(names, "init container", "sets", "set"), Size{CPU: usualCPU, Memory: usualMemory})
	}
	return verb(names, "init container", "needs", "need") + " that"
}

// limitsBeyond names the containers whose limits are more than a spec has.
func limitsBeyond(pod *corev1.PodSpec, s Size) string {
	var names []string
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		if c.Resources.Limits.Cpu().MilliValue() > s.CPU || c.Resources.Limits.Memory().Value() > s.Memory {
			names = append(names, c.Name)
		}
	}
	if len(names) == 0 {
		return "limits count as well as requests"
	}
	return "limits count as well as requests, here those of container " + listed(names)
}

// verb is what those of the names do.
func verb(names []string, kind, one, many string) string {
	if len(names) == 1 {
		return kind + " " + names[0] + " " + one
	}
	return kind + "s " + listed(names) + " " + many
}

// mostListed bounds how many names a text has.
const mostListed = 3

func listed(names []string) string {
	if len(names) > mostListed {
		return strings.Join(names[:mostListed], ", ") + fmt.Sprintf(" and %d more", len(names)-mostListed)
	}
	return strings.Join(names, ", ")
}
