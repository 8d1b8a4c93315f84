package admission

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/apis/core"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/spec"
)

// demandOf is what a Pod asks for. Only the fields that say so are converted.
func demandOf(pod *core.Pod, rules spec.Rules) spec.Demand {
	var out corev1.PodSpec
	convert := func(in []core.Container) (list []corev1.Container) {
		for i := range in {
			c := corev1.Container{Resources: *resourcesOf(&in[i].Resources)}
			if in[i].RestartPolicy != nil {
				policy := corev1.ContainerRestartPolicy(*in[i].RestartPolicy)
				c.RestartPolicy = &policy
			}
			list = append(list, c)
		}
		return list
	}
	out.Containers, out.InitContainers = convert(pod.Spec.Containers), convert(pod.Spec.InitContainers)
	if pod.Spec.Resources != nil {
		out.Resources = resourcesOf(pod.Spec.Resources)
	}
	return spec.DemandOf(&out, rules)
}

func resourcesOf(in *core.ResourceRequirements) *corev1.ResourceRequirements {
	list := func(in core.ResourceList) corev1.ResourceList {
		out := make(corev1.ResourceList, len(in))
		for name, q := range in {
			out[corev1.ResourceName(name)] = q
		}
		return out
	}
	return &corev1.ResourceRequirements{Requests: list(in.Requests), Limits: list(in.Limits)}
}

// give makes a spec the Pod's own resources.
func give(pod *core.Pod, got spec.Size) {
	r := core.ResourceRequirements{Requests: core.ResourceList{}, Limits: core.ResourceList{}}
	if pod.Spec.Resources != nil {
		r = *pod.Spec.Resources.DeepCopy() // huge pages stay
	}
	for _, list := range []*core.ResourceList{&r.Requests, &r.Limits} {
		if *list == nil {
			*list = core.ResourceList{}
		}
		(*list)[core.ResourceCPU] = *resource.NewMilliQuantity(got.CPU, resource.DecimalSI)
		(*list)[core.ResourceMemory] = *resource.NewQuantity(got.Memory, resource.BinarySI)
	}
	pod.Spec.Resources = &r
}

// follows is the value of the annotation for a Pod that keeps its own figures: what its microVM follows, by what the host will hold the Pod to.
func follows(spec *core.PodSpec) string {
	if r := spec.Resources; r != nil && !r.Limits.CPU().IsZero() && !r.Limits.Memory().IsZero() {
		return api.SizingWhole
	}
	for _, containers := range [][]core.Container{spec.InitContainers, spec.Containers} {
		for i := range containers {
			if containers[i].Resources.Limits.Memory().IsZero() {
				return api.SizingOpen
			}
		}
	}
	return api.SizingLimits
}

// cards is what containers ask for GPUs by.
const cards = core.ResourceName(spec.GPUResource)

// askForCards has the first container ask for the cards that an annotation names, if no container asks for any: without that the Pod
// would run, and be billed, on a host that has none.
func askForCards(pod *core.Pod, n int64) {
	if n == 0 || len(pod.Spec.Containers) == 0 {
		return
	}
	for i := range pod.Spec.Containers {
		if _, ok := pod.Spec.Containers[i].Resources.Limits[cards]; ok {
			return
		}
	}
	r := &pod.Spec.Containers[0].Resources
	for _, list := range []*core.ResourceList{&r.Requests, &r.Limits} {
		if *list == nil {
			*list = core.ResourceList{}
		}
		(*list)[cards] = *resource.NewQuantity(n, resource.DecimalSI)
	}
}

// describe writes a Pod's spec and its account into its annotations.
func describe(pod *core.Pod, got spec.Size) {
	pod.Annotations[api.Spec], pod.Annotations[api.SpecType] = got.String(), got.Type
	pod.Annotations[api.ChargeType] = api.ChargePostPaid
	if pod.Annotations[api.SpotPod] == "true" {
		pod.Annotations[api.ChargeType] = api.ChargeSpot
		lowest(&pod.Spec)
	}
	pod.Annotations[api.Workload] = workload(pod)
}

// lowest makes a Pod the first to go, and one that pushes nobody out.
func lowest(spec *core.PodSpec) {
	priority, never := int32(api.SpotPriority), core.PreemptNever
	spec.PriorityClassName, spec.Priority, spec.PreemptionPolicy = api.SpotClass, &priority, &never
}

// hurry has a Pod end within a time, in seconds: one that may take a year to end never gives way.
func hurry(spec *core.PodSpec, most int64) []string {
	var cut []string
	shorten := func(what string, grace *int64) {
		if grace != nil && *grace > most {
			cut = append(cut, fmt.Sprintf("%s %d", what, *grace))
			*grace = most
		}
	}
	shorten("terminationGracePeriodSeconds", spec.TerminationGracePeriodSeconds)
	for _, containers := range [][]core.Container{spec.InitContainers, spec.Containers} {
		for i := range containers {
			for _, p := range []*core.Probe{containers[i].LivenessProbe, containers[i].StartupProbe} {
				if p != nil {
					shorten("that of a probe of container "+containers[i].Name, p.TerminationGracePeriodSeconds)
				}
			}
		}
	}
	if len(cut) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("a spot Pod has %d seconds to end in (%s)", most, strings.Join(cut, ", "))}
}

// workload names what made a Pod: a Deployment rather than its ReplicaSet, the Pod itself if nobody did.
func workload(pod *core.Pod) string {
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner == nil {
		if pod.Name != "" {
			return "Pod/" + pod.Name
		}
		return "Pod/" + strings.TrimSuffix(pod.GenerateName, "-")
	}
	hash := pod.Labels["pod-template-hash"]
	if name, ok := strings.CutSuffix(owner.Name, "-"+hash); ok && hash != "" && owner.Kind == "ReplicaSet" {
		return "Deployment/" + name
	}
	return owner.Kind + "/" + owner.Name
}

// fitInto makes containers fit a spec that annotations name: their own figures count for nothing then, but the API refuses a
// container that may use more than its Pod.
func fitInto(pod *core.Pod, wish spec.Wish, got spec.Size) []string {
	if !wish.Named() {
		return nil
	}
	most := map[core.ResourceName]*resource.Quantity{
		core.ResourceCPU: resource.NewMilliQuantity(got.CPU, resource.DecimalSI), core.ResourceMemory: resource.NewQuantity(got.Memory, resource.BinarySI),
	}
	var cut []string
	for name, q := range most {
		over := false
		for _, containers := range [][]core.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			sum := resource.Quantity{}
			for i := range containers {
				r := &containers[i].Resources
				if limit, ok := r.Limits[name]; ok && limit.Cmp(*q) > 0 {
					r.Limits[name], over = q.DeepCopy(), true
				}
				sum.Add(r.Requests[name])
			}
			if sum.Cmp(*q) > 0 {
				over = true
				for i := range containers {
					delete(containers[i].Resources.Requests, name)
				}
			}
		}
		if over {
			cut = append(cut, string(name))
		}
	}
	if len(cut) == 0 {
		return nil
	}
	slices.Sort(cut)
	return []string{fmt.Sprintf("annotations %s and %s name the spec %s: what containers ask for beyond it (%s) is left out", api.CPU, api.Memory, got, strings.Join(cut, ", "))}
}

// difference says of whom what it gets if that is not what it asks for.
func difference(who string, asked spec.Demand, wish spec.Wish, got spec.Size) []string {
	if wish.Named() || !asked.Usual && asked.CPU == got.CPU && asked.Memory == got.Memory {
		return nil
	}
	return []string{fmt.Sprintf("%s gets the spec %s (%s): it asks for %s", who, got, got.Type, asked)}
}

// whole tells that CPU or memory is asked for the Pod as a whole.
func whole(r *core.ResourceRequirements) bool {
	return r != nil && !same(r, &core.ResourceRequirements{})
}

// same tells that two Pods ask for the same CPU and memory as a whole.
func same(a, b *core.ResourceRequirements) bool {
	if a == nil || b == nil {
		return a == b
	}
	for _, lists := range [][2]core.ResourceList{{a.Requests, b.Requests}, {a.Limits, b.Limits}} {
		if lists[0].CPU().Cmp(*lists[1].CPU()) != 0 || lists[0].Memory().Cmp(*lists[1].Memory()) != 0 {
			return false
		}
	}
	return true
}
