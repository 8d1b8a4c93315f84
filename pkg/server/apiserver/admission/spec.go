package admission

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/kubernetes/pkg/apis/core"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/podsize"
)

// resourcesOfPod is what of a Pod says how large it is. Only these fields are converted. A limit without a request is one, which the API
// fills in for a Pod and not for a template.
func resourcesOfPod(pod *core.Pod) *corev1.PodSpec {
	var out corev1.PodSpec
	convert := func(in []core.Container) (list []corev1.Container) {
		for i := range in {
			c := corev1.Container{Name: in[i].Name, Resources: *resourcesOf(&in[i].Resources)}
			for name, q := range c.Resources.Limits {
				if _, said := c.Resources.Requests[name]; !said {
					c.Resources.Requests[name] = q
				}
			}
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
	return &out
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
func give(pod *core.Pod, got podsize.Size) {
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

// follows is the value of the annotation for a Pod that keeps its own figures: what its microVM follows. The host holds the Pod to the
// same.
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

// gpus is what containers ask for GPUs by.
const gpus = core.ResourceName(podsize.GPUResource)

// askForGPUs has the first container ask for the GPUs that an annotation names, if no container asks for any: without that the Pod
// would run, and be billed, on a host that has none.
func askForGPUs(pod *core.Pod, n int64) {
	if n == 0 || len(pod.Spec.Containers) == 0 {
		return
	}
	for i := range pod.Spec.Containers {
		if _, ok := pod.Spec.Containers[i].Resources.Limits[gpus]; ok {
			return
		}
	}
	r := &pod.Spec.Containers[0].Resources
	for _, list := range []*core.ResourceList{&r.Requests, &r.Limits} {
		if *list == nil {
			*list = core.ResourceList{}
		}
		(*list)[gpus] = *resource.NewQuantity(n, resource.DecimalSI)
	}
}

// describe writes a Pod's spec and its account, which its workload is, into its annotations.
func describe(pod *core.Pod, got podsize.Size, workload string) {
	pod.Annotations[api.Spec], pod.Annotations[api.SpecType] = got.String(), got.Type
	pod.Annotations[api.ChargeType] = api.ChargePostPaid
	if pod.Annotations[api.SpotPod] == "true" {
		pod.Annotations[api.ChargeType] = api.ChargeSpot
		lowest(&pod.Spec)
	}
	pod.Annotations[api.Workload] = workload
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

// fitInto makes containers fit a spec that annotations name: their own figures count for nothing then, but the API refuses a
// container that may use more than its Pod.
func fitInto(pod *core.Pod, wish podsize.Wish, got podsize.Size) []string {
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

// Cost is what an hour of a spec costs, in a unit of the caller's; false where it has no price.
type Cost func(podsize.Size) (float64, bool)

// difference says of whom what it gets if that is not what it asks for, with the reason, and with what would be cheaper.
func (s *size) difference(who string, asking *corev1.PodSpec, wish podsize.Wish, got podsize.Size) []string {
	asked := podsize.DemandOf(asking, s.catalog.Rules)
	why, without := s.catalog.Why(asking, wish, got)
	if wish.Named() || why == "" && !asked.Usual && asked.CPU == got.CPU && asked.Memory == got.Memory {
		return nil
	}
	text := fmt.Sprintf("%s gets the spec %s (%s): ", who, got, got.Type)
	if why == "" {
		text += fmt.Sprintf("it asks for %s", asked)
	} else {
		text += fmt.Sprintf("%s. Without that it would be %s", why, without) + s.saving(got, without)
	}
	for _, kind := range s.catalog.Types(false) {
		if other := wish.On(asked); len(other.Types) == 0 && other.GPU == 0 && kind != got.Type && s.there(kind) {
			other.Types = []string{kind}
			size, err := s.catalog.Fit(other)
			if saved := s.saving(got, size); err == nil && saved != "" {
				text += fmt.Sprintf(". With the annotation %s: %s it would be %s", api.CPUType, kind, size) + saved
			}
		}
	}
	return []string{text}
}

// saving says how much less than one spec another one costs, if it does.
func (s *size) saving(than, size podsize.Size) string {
	if s.cost == nil {
		return ""
	}
	more, ok := s.cost(than)
	less, found := s.cost(size)
	if !ok || !found || less <= 0 || less >= more {
		return ""
	}
	return fmt.Sprintf(", at 1/%.3g of the price", more/less)
}

// forget takes out of a Pod what this package wrote into one that its author has exported, so that it is not taken for the author's wish.
// What an author asks for a Pod as a whole is marked as that.
func forget(pod *core.Pod) {
	had, err := podsize.ParseSize(pod.Annotations[api.Spec], pod.Annotations[api.SpecType])
	if err != nil {
		return
	}
	if pod.Annotations[api.AskedWhole] == "" {
		written := &core.Pod{}
		give(written, had)
		if same(pod.Spec.Resources, written.Spec.Resources) {
			for _, list := range []core.ResourceList{pod.Spec.Resources.Requests, pod.Spec.Resources.Limits} {
				delete(list, core.ResourceCPU)
				delete(list, core.ResourceMemory)
			}
			if len(pod.Spec.Resources.Requests)+len(pod.Spec.Resources.Limits)+len(pod.Spec.Resources.Claims) == 0 {
				pod.Spec.Resources = nil
			}
		}
	}
	forgetStorage(pod)
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
