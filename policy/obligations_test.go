package policy_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/policy"
)

const watchful = `  requestFilter: {contentTypes: [Application/JSON, image/*], maxHeaders: 7, maxStreams: 8, handshakeTimeout: 9s}
  obligations:
    - {name: guessing, on: authentication.deny, count: 20, window: 1m, do: [alert, blockSource], for: 10m}
    - {name: careful, on: any.deny, count: 5, window: 1m, do: [blockSource], for: 1h, minLevel: lockdown}
    - {name: look, on: request.deny, count: 1, window: 1h, do: [alert]}
`

func watched(t *testing.T) *policy.Deployment {
	t.Helper()
	b, err := parse(folder(t), strings.Replace(base, "  tests:", watchful+"  tests:", 1))
	if err != nil {
		t.Fatal(err)
	}
	return b.Deployments[0]
}

func TestObligationsAreRead(t *testing.T) {
	p := watched(t).Policy
	o := p.Obligations
	if len(o) != 3 || o[0].On != "authentication.deny" || o[0].Count != 20 || o[0].Window != time.Minute || !o[0].Alert || o[0].Block != 10*time.Minute ||
		o[1].Alert || o[1].MinLevel != "lockdown" || o[2].Block != 0 || o[2].Pos.Line == 0 {
		t.Errorf("%+v", o)
	}
	f := p.RequestFilter
	if !slices.Equal(f.ContentTypes, []string{"application/json", "image/*"}) || f.MaxHeaders != 7 || f.MaxStreams != 8 || f.HandshakeTimeout != 9*time.Second {
		t.Errorf("%+v", f)
	}
}

// What only the instance or only the request itself knows is said to be unknown.
func TestWhySaysWhatItCannotKnow(t *testing.T) {
	d := watched(t)
	const (
		guessing = "guessing refuses a source for 10m after 20 denials (authentication) within 1m; which ones are blocked only the instance knows"
		careful  = "careful refuses a source for 1h after 5 denials (any) within 1m; which ones are blocked only the instance knows"
		typed    = "default:request refuses a body that is not application/json or image/*; the request line does not show its type"
	)
	for _, c := range []struct {
		q    policy.Query
		want []string
	}{
		{policy.Query{Packet: "tcp 127.0.0.1 -> :8080"}, []string{guessing}},
		{policy.Query{Packet: "tcp 127.0.0.1 -> :8080", Level: "lockdown"}, []string{guessing, careful}},
		{policy.Query{Request: "GET /items/7", User: "ann", Groups: []string{"staff"}}, []string{guessing}},
		{policy.Query{Request: "POST /items/7/orders", User: "ann", Set: set("count", "5")}, []string{typed, guessing}},
		{policy.Query{Request: "GET /../items", User: "ann"}, []string{guessing}},
	} {
		a, err := d.Why(c.q)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, o := range a.Considered {
			if strings.Contains(o.Text, "knows") || strings.Contains(o.Text, "show") {
				got = append(got, o.Rule.ID+" "+o.Text)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v:\n%s", c.q, strings.Join(got, "\n"))
		}
	}
}
