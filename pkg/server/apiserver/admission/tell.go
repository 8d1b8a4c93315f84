package admission

import (
	"context"
	"strings"
	"unicode"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/warning"
)

// mostOfName bounds how much of an object's name a warning has. It may not have been checked yet.
const mostOfName = 64

// tell warns whoever sends an object, which each warning names. A controller is told nothing of the objects that it makes: nobody would
// read it, and those who made the workload were told. All warnings of our admission go through here.
func tell(ctx context.Context, a admission.Attributes, texts ...string) {
	meta, ok := a.GetObject().(metav1.Object)
	if ok && metav1.GetControllerOfNoCopy(meta) != nil {
		return
	}
	for _, text := range texts {
		warning.AddWarning(ctx, "", oneLine(subject(a, meta)+": "+text))
	}
}

// subject names what a request is about.
func subject(a admission.Attributes, meta metav1.Object) string {
	name := a.GetName()
	if name == "" && meta != nil {
		if name = meta.GetName(); name == "" {
			name = meta.GetGenerateName()
		}
	}
	if len(name) > mostOfName {
		name = name[:mostOfName] + "..."
	}
	if a.GetNamespace() != "" {
		name = a.GetNamespace() + "/" + name
	}
	return a.GetKind().Kind + " " + name
}

// oneLine is a text as a warning may be. Others the apiserver drops without a word.
func oneLine(text string) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, string(utf8.RuneError)), "\n", "; ")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
}
