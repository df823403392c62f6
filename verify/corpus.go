package verify

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/internal/corpus"
	"lorica.dev/lorica/internal/try"
	"lorica.dev/lorica/policy"
)

// maxCorpus bounds the time that all of it may take.
const maxCorpus = 2 * time.Minute

// corpus sends the requests that servers are known to read differently, each on a
// connection of its own and without credentials. What the corpus has refused must be refused
// here. What it has served is asked of a path that does not exist here, so that it must be
// refused as such: no method, no path and no second request that only one of two readers
// would see may get further.
func (v *verifier) corpus(ctx context.Context) {
	list, err := corpus.Entries()
	if err != nil {
		v.report.Bypasses = append(v.report.Bypasses, Bypass{Name: "all", State: NotShown, Why: err.Error()})
		return
	}
	m := v.adaptation()
	end := time.Now().Add(maxCorpus)
	for i := range list {
		if ctx.Err() != nil {
			return
		}
		if i%10 == 0 {
			v.Progress(fmt.Sprintf("%d of %d bypasses", i, len(list)))
		}
		b := Bypass{Name: list[i].Name, State: NotShown}
		raw, want, why := m.adapt(&list[i])
		b.Want = want
		switch {
		case why != "":
			b.Why = why
		case len(v.doors) == 0:
			b.Why = "no network rule lets a connection from this machine in"
		case time.Now().After(end):
			b.Why = "the time was up"
		default:
			if b.Why = v.blocks(abi.StageFilter, v.doors[0].from); b.Why == "" {
				v.bypass(ctx, &b, raw)
			}
		}
		v.report.Bypasses = append(v.report.Bypasses, b)
	}
}

// An adaptation is how the corpus, which is about a policy of its own, is about this one.
type adaptation struct {
	d        *policy.Deployment
	existing string // path that stands for /app where it is refused before it is looked for
	hidden   string // path that stands for /admin there
	missing  string // path that stands for /app where it is served; empty: every path exists
}

func (v *verifier) adaptation() adaptation {
	m := adaptation{d: v.Deployment, existing: "/app", hidden: "/admin"}
	for _, r := range v.Deployment.Policy.Routes {
		at := strings.Index(r.Path, "/{")
		if at > 0 && m.existing == "/app" {
			m.existing = r.Path[:at]
		} else if at < 0 && r.Path != "/" {
			m.hidden = r.Path
		}
	}
	if m.unknown("GET", "/"+nobody+"/x") {
		m.missing = "/" + nobody
	}
	return m
}

// unknown reports whether no route has a path.
func (m *adaptation) unknown(method, path string) bool {
	a, err := m.d.Why(policy.Query{Request: method + " " + path})
	return err == nil && a.Rule.ID == abi.RuleRoute
}

// limited are statuses of bounds that policies set otherwise.
var limited = []string{"413", "414", "431"}

// adapt returns what is sent for an entry and the statuses that must come back, or why it
// is not sent.
func (m *adaptation) adapt(e *corpus.Entry) (raw []byte, want, why string) {
	statuses := strings.Fields(e.Status)
	if slices.ContainsFunc(statuses, func(s string) bool { return slices.Contains(limited, s) }) {
		return nil, "", "it is about a bound that this policy may set otherwise"
	}
	head, rest, _ := bytes.Cut(e.Raw, []byte("\r\n"))
	put := func(app, admin string) []byte {
		line := bytes.ReplaceAll(head, []byte("/app"), []byte(app))
		line = bytes.ReplaceAll(line, []byte("/admin"), []byte(admin))
		return append(append(line, "\r\n"...), rest...)
	}
	served := slices.Contains(statuses, "200") || slices.Contains(statuses, "100")
	switch {
	case !served && !slices.Contains(statuses, "404"):
		return put(m.existing, m.hidden), e.Status, ""
	case m.missing == "":
		return nil, "", "it asks for a path that does not exist, and every path is a route of this policy"
	case !served: // the paths of the corpus, if they are as unknown here
		_, target, _ := strings.Cut(string(head), " ")
		target, _, _ = strings.Cut(target, " ")
		method, _, _ := strings.Cut(string(head), " ")
		if !m.unknown(method, target) {
			return nil, "", "its path is a route of this policy"
		}
		return e.Raw, e.Status, ""
	case !strings.HasSuffix(e.Sees[0], " 0") || framed.Match(e.Raw) || !bytes.HasSuffix(e.Raw, []byte("\r\n\r\n")) || bytes.Count(e.Raw, []byte("\r\n\r\n")) > 1:
		return nil, "", "it is served, and what comes of its body or of what follows it only the application sees"
	}
	return put(m.missing, m.hidden), "404", ""
}

// framed finds what says that there is a body.
var framed = regexp.MustCompile(`(?i)\r\n(content.length|transfer.encoding)`)

var decisionLine = regexp.MustCompile(`(?mi)^lorica-decision: (\S+)\r$`)

// bypass sends an entry, and looks at all that came of it.
func (v *verifier) bypass(ctx context.Context, b *Bypass, raw []byte) {
	l, err := v.connected(&login{}, "", "")
	if err != nil {
		b.Why = err.Error()
		return
	}
	config, err := v.config(l)
	if err != nil {
		b.Why = err.Error()
		return
	}
	began := time.Now()
	answer, err := v.raw(ctx, v.doors[0], config, raw)
	if err != nil {
		if ctx.Err() == nil {
			b.State, b.Got = Differs, "no answer: "+err.Error()
		}
		return
	}
	b.Got = corpus.Statuses(answer)
	b.State = Shown
	if b.Got != b.Want {
		b.State = Differs
	}
	ids := map[string]bool{}
	for _, m := range decisionLine.FindAllSubmatch(answer, -1) {
		id := string(m[1])
		ids[id] = true
		d, ok := v.records.find(ctx, id)
		switch {
		case ctx.Err() != nil:
			return
		case !ok:
			b.State, b.Got = Differs, b.Got+", and no record"
		case d.Stage == abi.StageSourceLimit || d.Stage == abi.StageObligations:
			b.State, b.Why = NotShown, v.limited(&d, expectation{})
			return
		case d.Decision != abi.Deny.String() || d.Program != v.Program || d.Level != v.Level.Name:
			b.State, b.Got = Differs, fmt.Sprintf("%s: %s by %s", b.Got, d.Decision, d.Rule)
		}
	}
	// A request that only the image saw has no answer here, but a record.
	for _, d := range v.records.since(v.doors[0].from, began) {
		if !ids[d.ID] && d.Method != "" && d.Decision == abi.Allow.String() && d.Path != "" && bytes.Contains(raw, []byte(d.Path)) {
			b.State, b.Got = Differs, fmt.Sprintf("%s: and %s %s was allowed by %s", b.Got, d.Method, d.Path, d.Rule)
		}
	}
}

// raw sends bytes, ends its side, and returns all that comes back.
func (v *verifier) raw(ctx context.Context, at door, config *tls.Config, raw []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	c, err := try.Dial(ctx, at.to.String(), at.from.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	closer := c.(interface{ CloseWrite() error })
	if config != nil {
		s := tls.Client(c, config)
		if err := s.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		c, closer = s, s
	}
	_, _ = c.Write(raw) // the server may have closed before the last byte
	_ = closer.CloseWrite()
	b, err := io.ReadAll(io.LimitReader(c, 1<<20))
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		return nil, fmt.Errorf("the connection stays open")
	}
	return b, nil
}
