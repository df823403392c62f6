package policy

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
)

func (d *decoder) requestFilter(s *api.SecurityPolicy) func(*yaml.Node) {
	return func(n *yaml.Node) {
		f := &api.RequestFilter{Pos: d.pos(n), RejectEncodedSlash: true}
		var header, path, conns, headers, streams uint64
		const p = "spec.requestFilter."
		timeout := func(name string, dst *time.Duration) field {
			return field{name: name, read: d.duration(dst, p+name, 100*time.Millisecond, time.Hour)}
		}
		d.object(n, "spec.requestFilter",
			field{name: "maxHeaderBytes", read: d.size(&header, p+"maxHeaderBytes", 1<<10, 1<<20)},
			field{name: "maxHeaders", read: d.number(&headers, p+"maxHeaders", 1, 1000)},
			field{name: "maxBodyBytes", read: d.size(&f.MaxBodyBytes, p+"maxBodyBytes", 1, 64<<20)},
			field{name: "maxPathBytes", read: d.size(&path, p+"maxPathBytes", 64, 64<<10)},
			field{name: "maxConnections", read: d.number(&conns, p+"maxConnections", 1, 1<<16)},
			field{name: "maxStreams", read: d.number(&streams, p+"maxStreams", 1, 1000)},
			timeout("handshakeTimeout", &f.HandshakeTimeout),
			timeout("headerTimeout", &f.HeaderTimeout),
			timeout("bodyTimeout", &f.BodyTimeout),
			timeout("writeTimeout", &f.WriteTimeout),
			timeout("idleTimeout", &f.IdleTimeout),
			field{name: "rejectEncodedSlash", read: d.boolean(&f.RejectEncodedSlash, p+"rejectEncodedSlash")},
			field{name: "contentTypes", read: d.contentTypes(&f.ContentTypes)})
		f.MaxHeaderBytes, f.MaxPathBytes, f.MaxConnections = uint32(header), uint32(path), uint32(conns)
		f.MaxHeaders, f.MaxStreams = uint32(headers), uint32(streams)
		s.RequestFilter = f
	}
}

const mediaToken = "[a-z0-9!#$&^_.+-]{1,64}"

// mediaForm is a media type (RFC 6838, section 4.2), or a family of them.
var mediaForm = regexp.MustCompile("^" + mediaToken + "/(\\*|" + mediaToken + ")$")

// maxTypes bounds a list that every request with a body walks.
const maxTypes = 64

func (d *decoder) contentTypes(dst *[]string) func(*yaml.Node) {
	const p = "spec.requestFilter.contentTypes"
	return func(n *yaml.Node) {
		d.list(p, func(n *yaml.Node) {
			var s string
			if d.str(&s, p)(n); n.Tag != "!!str" {
				return
			}
			low := strings.ToLower(s)
			bare, _, cut := strings.Cut(low, ";")
			switch {
			case cut && mediaForm.MatchString(strings.TrimSpace(bare)):
				d.fail(n, "write "+strings.TrimSpace(bare), "%s: %q has parameters, which are not compared", p, clip(s))
			case !mediaForm.MatchString(low):
				d.fail(n, "write a media type such as application/json, or image/* for all of a kind", "%s: %q is not a media type", p, clip(s))
			case slices.Contains(*dst, low):
				d.fail(n, "name each type once", "%s names %s twice", p, low)
			default:
				*dst = append(*dst, low)
			}
		})(n)
		switch {
		case n.Kind == yaml.SequenceNode && len(n.Content) == 0:
			d.fail(n, "write the types, or remove the field for any", "%s is empty: no body would pass", p)
		case len(n.Content) > maxTypes:
			d.fail(n, "write a family such as text/*", "%s has %d types; the limit is %d", p, len(n.Content), maxTypes)
		}
	}
}

// checkFilter refuses types of bodies under which what rules read of a body can
// never be there.
func (p *parsing) checkFilter(s *securityPolicy) {
	f := s.RequestFilter
	if f == nil || len(f.ContentTypes) == 0 || slices.Contains(f.ContentTypes, "application/json") || slices.Contains(f.ContentTypes, "application/*") {
		return
	}
	for _, a := range s.Attributes {
		if strings.HasPrefix(a.Source, "body.json:") {
			s.failAt(a.Pos, "add application/json to requestFilter.contentTypes", "attribute %q can never have a value: no body of the type application/json passes the request filter", a.Name)
		}
	}
}

// whyTyped says which bodies the filter takes, since the request line does not
// show of which type one is.
func (d *Deployment) whyTyped(a *Answer, x *exchange) {
	f := d.Policy.RequestFilter
	if f == nil || len(f.ContentTypes) == 0 || a.Stage == abi.StageFilter && a.Verdict == abi.Deny || x.verb == "GET" || x.verb == "HEAD" {
		return
	}
	a.Considered = append(a.Considered, Outcome{Rule: abi.Rule{ID: abi.RuleRequest, Line: f.Pos.Short()},
		Text: "refuses a body that is not " + strings.Join(f.ContentTypes, " or ") + "; the request line does not show its type"})
}
