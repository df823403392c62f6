package verify

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/internal/try"
	"lorica.dev/lorica/tender"
)

// config is how a login connects; nil: without TLS.
func (v *verifier) config(l *login) (*tls.Config, error) {
	c, err := v.roots()
	if c != nil {
		c.NextProtos = []string{"http/1.1"}
		if l != nil && l.certificate != nil {
			c.Certificates = []tls.Certificate{*l.certificate}
		}
	}
	return c, err
}

// mutual reports whether nobody is served without a certificate.
func (v *verifier) mutual() bool {
	t := v.Deployment.Policy.TLS
	return t != nil && t.Mode == transport.Mutual
}

// text is a request as it goes over the wire.
func (q *request) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", q.method, q.target, q.door.to)
	if q.login.authorization != "" {
		fmt.Fprintf(&b, "Authorization: %s\r\n", q.login.authorization)
	}
	for _, h := range q.header {
		b.WriteString(h + "\r\n")
	}
	if len(q.body) > 0 {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(q.body))
	}
	return b.String() + "\r\n" + string(q.body)
}

// send makes a request and holds what came of it to what is expected. Its error says why
// that could not be shown.
func (v *verifier) send(ctx context.Context, q *request, e expectation) (Trial, error) {
	t := Trial{Witness: q.words(), Expected: e.String()}
	if e.verdict == abi.Deny {
		if why := v.blocks(e.stage, q.door.from); why != "" {
			return t, errors.New(why)
		}
	}
	c, err := v.config(q.login)
	if err != nil {
		return t, err
	}
	a, err := try.Exchange(ctx, q.door.to.String(), q.door.from.String(), c, q.method, q.text())
	return v.weigh(ctx, t, e, a, err)
}

// weigh holds an answer, and the record that it names, to what is expected.
func (v *verifier) weigh(ctx context.Context, t Trial, e expectation, a try.Answer, err error) (Trial, error) {
	switch {
	case ctx.Err() != nil:
		return t, ctx.Err()
	case err != nil:
		t.Got = "no answer: " + err.Error()
		return t, nil
	case a.Refused != "":
		t.Got = "the connection is refused (" + a.Refused + ")"
		return t, nil
	case a.Decision == "":
		t.Got = fmt.Sprintf("%d, without the name of a decision", a.Status)
		return t, nil
	}
	t.Decision = a.Decision
	d, ok := v.records.find(ctx, a.Decision)
	switch {
	case !ok && e.verdict == abi.Allow && v.sampled():
		return t, errors.New("allowed requests are sampled (spec.audit), and this one left no record")
	case !ok:
		t.Got = fmt.Sprintf("%d, and no record", a.Status)
		return t, nil
	}
	if why := v.limited(&d, e); why != "" {
		return t, errors.New(why)
	}
	t.Got, t.OK = v.held(e, &d)
	if t.OK && e.verdict == abi.Deny && a.Status < 400 {
		t.Got, t.OK = fmt.Sprintf("%s, and yet the status %d", t.Got, a.Status), false
	}
	return t, nil
}

// sampled reports whether allowed requests may leave no record.
func (v *verifier) sampled() bool {
	a := v.Deployment.Policy.Audit
	return a != nil && a.SampleAllowed < 1
}

// limited returns why a refusal by something else that the policy writes shows nothing: a
// limit that is used up, or a source that is blocked.
func (v *verifier) limited(d *tender.Decision, e expectation) string {
	if d.Decision == abi.Allow.String() || d.Rule == e.rule.ID {
		return ""
	}
	switch d.Stage {
	case abi.StageSourceLimit, abi.StagePrincipalLimit:
		for _, l := range v.Deployment.Policy.RateLimits {
			if l.Name == d.Rule {
				return "the limit " + l.Name + " is used up for now"
			}
		}
	case abi.StageObligations:
		for _, o := range v.Deployment.Policy.Obligations {
			if o.Name == d.Rule && o.Block > 0 {
				return "this machine is blocked by the obligation " + o.Name + " for now"
			}
		}
	}
	return ""
}

// refused makes a connection that must be refused, and looks for its record by source and
// time.
func (v *verifier) refused(ctx context.Context, t Trial, e expectation, at door, connect func() (try.Answer, error)) (Trial, error) {
	began := time.Now()
	a, err := connect()
	if ctx.Err() != nil {
		return t, ctx.Err()
	}
	late := waitForRecord
	switch {
	case err != nil:
		late = time.Second
		t.Got = "no connection: " + err.Error()
	case a.Refused == "":
		late = time.Second
		t.Got = fmt.Sprintf("let in, and answered %d", a.Status)
	}
	if v.hides("source") {
		if t.OK = t.Got == ""; t.OK {
			return t, errors.New("the connection is refused, but records hide its source (spec.audit), so that none can be told to be its own")
		}
		return t, nil
	}
	d, ok := v.records.connection(ctx, late, at.from, began, 0)
	if !ok {
		if t.Got == "" {
			t.Got = "refused (" + a.Refused + "), and no record"
		}
		return t, nil
	}
	got, same := v.held(e, &d)
	for next := d; !same; {
		if next, ok = v.records.connection(ctx, time.Second, at.from, began, next.Seq); !ok {
			break
		}
		if text, held := v.held(e, &next); held { // the one before was somebody else's
			d, got, same = next, text, true
		}
	}
	if why := v.limited(&d, e); why != "" {
		return t, errors.New(why)
	}
	t.Decision = d.ID
	if t.Got == "" {
		t.Got, t.OK = got, same
	}
	return t, nil
}

// hides reports whether records leave a field out.
func (v *verifier) hides(field string) bool {
	a := v.Deployment.Policy.Audit
	if a == nil {
		return false
	}
	for _, r := range a.Redact {
		if r.Field == field {
			return true
		}
	}
	return false
}
