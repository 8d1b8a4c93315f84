package cronscaler

import (
	"strings"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	customvalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	celconfig "k8s.io/apiserver/pkg/apis/cel"

	"github.com/nodeless/nodeless/manifests"
	"github.com/nodeless/nodeless/pkg/kube"
)

// definition is what the manifests define, in the apiserver's own form.
func definition(t *testing.T) *apiextensions.CustomResourceDefinition {
	t.Helper()
	objects, err := kube.Manifests(manifests.System(), manifests.AutoscalingDir, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if o.GetKind() != "CustomResourceDefinition" {
			continue
		}
		var versioned apiextensionsv1.CustomResourceDefinition
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, &versioned, true); err != nil {
			t.Fatal(err)
		}
		apiextensionsv1.SetObjectDefaults_CustomResourceDefinition(&versioned)
		internal := &apiextensions.CustomResourceDefinition{}
		if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&versioned, internal, nil); err != nil {
			t.Fatal(err)
		}
		internal.Status.StoredVersions = []string{"v1"}
		return internal
	}
	t.Fatal("no definition")
	return nil
}

func TestTheApiserverTakesTheDefinition(t *testing.T) {
	d := definition(t)
	if errs := validation.ValidateCustomResourceDefinition(t.Context(), d); len(errs) > 0 {
		t.Error(errs.ToAggregate())
	}
	if want := resource(); d.Spec.Group != want.Group || d.Spec.Names.Plural != want.Resource || d.Spec.Versions[0].Name != want.Version {
		t.Errorf("it defines %s of %s, and the controller looks for %v", d.Spec.Names.Plural, d.Spec.Group, want)
	}
}

// refused gives what the apiserver says to the creation of an object, or nothing.
func refused(t *testing.T, d *apiextensions.CustomResourceDefinition, text string) string {
	t.Helper()
	var object map[string]any
	if err := yaml.Unmarshal([]byte(text), &object); err != nil {
		t.Fatal(err)
	}
	schema := d.Spec.Versions[0].Schema
	if schema == nil {
		schema = d.Spec.Validation
	}
	validator, _, err := customvalidation.NewSchemaValidator(schema.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	structural, err := structuralschema.NewStructural(schema.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	errs := customvalidation.ValidateCustomResource(nil, object, validator)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, structural, object)...)
	if len(errs) == 0 { // as the apiserver does
		more, _ := cel.NewValidator(structural, true, celconfig.PerCallLimit).Validate(t.Context(), nil, structural, object, nil, celconfig.RuntimeCELCostBudget)
		errs = append(errs, more...)
	}
	if len(errs) == 0 {
		return ""
	}
	return errs.ToAggregate().Error()
}

const deployment = `{apiVersion: apps/v1, kind: Deployment, name: web}`

func TestTheDefinitionRefuses(t *testing.T) {
	d := definition(t)
	cron := func(text string) string { return `{spec: {scaleTarget: ` + deployment + `, crons: [` + text + `]}}` }
	autoscaler := func(text string) string {
		return `{spec: {scaleTarget: {apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, name: web}, crons: [` + text + `]}}`
	}
	tests := []struct{ name, object, want string }{
		{name: "the cloud's example", object: cron(`{name: scale-down, excludeDates: ["* * * 15 11 *", "* * * * * 5"], schedule: "30 */1 * * * *", targetSize: 1}, {name: scale-up, schedule: "0 */1 * * * *", targetSize: 3}`)},
		{name: "the cloud's example of a StatefulSet", object: `{spec: {scaleTarget: {apiVersion: apps/v1, kind: Statefulset, name: nginx-statefulset, namespace: default}, crons: [{name: a, schedule: "0 */2 * * * *", targetSize: 1}]}}`},
		{name: "the cloud's example of an autoscaler", object: `{spec: {scaleTarget: {apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, name: nginx-hpa, namespace: default}, crons: [{name: scale-up, schedule: "30 */1 * * * *", minSize: 2, maxSize: 6}]}}`},
		{name: "an autoscaler's one size", object: autoscaler(`{name: a, schedule: "0 0 8 * * *", targetSize: 3, timeZone: Asia/Shanghai, runOnce: true}`)},
		{name: "five fields", object: cron(`{name: a, schedule: "0 8 * * *", targetSize: 1}`), want: "six fields, the seconds first"},
		{name: "five fields of a day", object: cron(`{name: a, schedule: "0 0 8 * * *", excludeDates: ["* * 15 11 *"], targetSize: 1}`), want: "a pattern of days has six fields"},
		{name: "another kind", object: `{spec: {scaleTarget: {apiVersion: apps/v1, kind: DaemonSet, name: web}, crons: [{name: a, schedule: "0 0 8 * * *", targetSize: 1}]}}`, want: `"DaemonSet"`},
		{name: "another group", object: `{spec: {scaleTarget: {apiVersion: v1, kind: Deployment, name: web}, crons: [{name: a, schedule: "0 0 8 * * *", targetSize: 1}]}}`, want: "is of apps/v1"},
		{name: "a negative size", object: cron(`{name: a, schedule: "0 0 8 * * *", targetSize: -1}`), want: "greater than or equal to 0"},
		{name: "min above max", object: autoscaler(`{name: a, schedule: "0 0 8 * * *", minSize: 5, maxSize: 4}`), want: "minSize is more than maxSize"},
		{name: "min alone", object: autoscaler(`{name: a, schedule: "0 0 8 * * *", minSize: 5}`), want: "go together"},
		{name: "all sizes", object: autoscaler(`{name: a, schedule: "0 0 8 * * *", minSize: 5, maxSize: 6, targetSize: 5}`), want: "either targetSize, or"},
		{name: "no size", object: autoscaler(`{name: a, schedule: "0 0 8 * * *"}`), want: "either targetSize, or"},
		{name: "bounds of a Deployment", object: cron(`{name: a, schedule: "0 0 8 * * *", minSize: 5, maxSize: 6}`), want: "minSize and maxSize are for a HorizontalPodAutoscaler"},
		{name: "two of one name", object: cron(`{name: a, schedule: "0 0 8 * * *", targetSize: 1}, {name: a, schedule: "0 0 9 * * *", targetSize: 2}`), want: "Duplicate"},
		{name: "no crons", object: cron(""), want: "spec.crons"},
		{name: "no target", object: `{spec: {crons: [{name: a, schedule: "0 0 8 * * *", targetSize: 1}]}}`, want: "scaleTarget"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := refused(t, d, tt.object)
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("the apiserver says %q, want %q in it", got, tt.want)
			}
		})
	}
}
