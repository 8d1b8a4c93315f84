package guard

import (
	"net/url"
	"strings"

	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit"
)

// hidden stands for what the log leaves out.
const hidden = "hidden"

// Audit has the log leave out what of a request's address may be secret: the arguments of a command that is run in a Pod, and what is asked
// of a Pod, a Service or a node through the apiserver. That somebody did it, to what, and with which program stays.
func Audit(next audit.Backend) audit.Backend {
	if next == nil {
		return nil
	}
	return discreet{next}
}

type discreet struct{ audit.Backend }

// ProcessEvents passes on copies: the events are those of requests under way.
func (d discreet) ProcessEvents(events ...*auditinternal.Event) bool {
	out := make([]*auditinternal.Event, len(events))
	for i, event := range events {
		out[i] = event
		if uri := withoutSecrets(event); uri != event.RequestURI {
			told := *event
			told.RequestURI = uri
			out[i] = &told
		}
	}
	return d.Backend.ProcessEvents(out...)
}

// withoutSecrets is the event's address for the log.
func withoutSecrets(event *auditinternal.Event) string {
	if event.ObjectRef == nil {
		return event.RequestURI
	}
	path, query, _ := strings.Cut(event.RequestURI, "?")
	switch event.ObjectRef.Subresource {
	case "exec", "attach":
		return join(path, command(query))
	case "proxy":
		switch at := strings.Index(path, "/proxy/"); {
		case at >= 0 && len(path) > at+len("/proxy/"):
			path = path[:at+len("/proxy/")] + hidden
		case at < 0 && !strings.HasSuffix(path, "/proxy"): // it is written in another way, as with %78
			path = hidden
		}
		if query != "" {
			query = hidden
		}
		return join(path, query)
	}
	return event.RequestURI
}

func join(path, query string) string {
	if query == "" {
		return path
	}
	return path + "?" + query
}

// command leaves out all words of a command but the first. What cannot be read is left out.
func command(query string) string {
	if query == "" {
		return ""
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return hidden
	}
	words := values["command"]
	for i := 1; i < len(words); i++ {
		words[i] = hidden
	}
	return values.Encode()
}
