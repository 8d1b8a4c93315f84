package cronscaler

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// resource is where HorizontalPodCronscalers are in the API. manifests/autoscaling defines them.
func resource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "autoscaling.cloud.tencent.com", Version: "v1", Resource: "horizontalpodcronscalers"}
}

// Scaler is a HorizontalPodCronscaler.
type Scaler struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   Spec   `json:"spec"`
	Status Status `json:"status,omitempty"`
}

// Spec is what its author wants.
type Spec struct {
	ScaleTarget Target `json:"scaleTarget"`
	Crons       []Cron `json:"crons"`
}

// Target is what is scaled.
type Target struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	Namespace  string `json:"namespace,omitempty"` // the object's own, or empty
}

// Cron is one entry of a scaler: when, and how large.
type Cron struct {
	Name         string   `json:"name"`
	Schedule     string   `json:"schedule"`
	TimeZone     string   `json:"timeZone,omitempty"` // of this host when empty
	ExcludeDates []string `json:"excludeDates,omitempty"`
	RunOnce      bool     `json:"runOnce,omitempty"` // only the first time that comes counts
	TargetSize   *int32   `json:"targetSize,omitempty"`
	MinSize      *int32   `json:"minSize,omitempty"`
	MaxSize      *int32   `json:"maxSize,omitempty"`
}

// Status is what has become of it.
type Status struct {
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
	Crons              []CronStatus       `json:"crons,omitempty"`
}

// CronStatus is what has become of one entry since it has had this schedule.
type CronStatus struct {
	Name             string       `json:"name"`
	Schedule         string       `json:"schedule"`
	TimeZone         string       `json:"timeZone,omitempty"`
	Since            metav1.Time  `json:"since"`
	LastScheduleTime *metav1.Time `json:"lastScheduleTime,omitempty"` // the time that came, not when it was acted on
	LastResult       string       `json:"lastResult,omitempty"`
	LastMessage      string       `json:"lastMessage,omitempty"`
	LastMissedTime   *metav1.Time `json:"lastMissedTime,omitempty"` // the latest that nothing was done at
	NextScheduleTime *metav1.Time `json:"nextScheduleTime,omitempty"`
}

// What CronStatus.LastResult may be.
const (
	Succeeded  = "Succeeded"
	Failed     = "Failed"
	Missed     = "Missed"     // too long ago when it was found due
	Superseded = "Superseded" // another entry of the same object came later, or last at the same time
)

// Valid is the type of the condition that says whether the object can be acted on.
const Valid = "Valid"

// Reasons of the condition, and of events.
const (
	Scheduled      = "Scheduled"
	TooMany        = "TooMany"
	InvalidSpec    = "InvalidSpec"
	TargetNotFound = "TargetNotFound"
	Scaled         = "Scaled"
	ScaleFailed    = "ScaleFailed"
	MissedRun      = "MissedRun"
)
