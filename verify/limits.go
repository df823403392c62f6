package verify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/internal/try"
	"lorica.dev/lorica/policy"
)

// Bounds of what is sent to use a limit up.
const (
	maxRequests = 2000
	maxFlood    = 30 * time.Second
)

// limits uses rate limits up, last of all: whoever comes from here is refused for a while
// then.
func (v *verifier) limits(ctx context.Context, cases map[string]*found) {
	for i := range v.report.Results {
		r := &v.report.Results[i]
		if r.Stage != abi.StageSourceLimit && r.Stage != abi.StagePrincipalLimit {
			continue
		}
		for _, l := range policy.RateLimits(v.Deployment.Policy, v.level) {
			if l.Name == r.Rule && ctx.Err() == nil {
				v.Progress("using up " + l.Name)
				r.add(v.useUp(ctx, &l, expectation{abi.Deny, r.Stage, abi.Rule{ID: r.Rule, Line: r.Line}}, cases))
			}
		}
	}
}

func (v *verifier) useUp(ctx context.Context, l *api.RateLimit, e expectation, cases map[string]*found) (t Trial, err error) {
	if l.Requests > maxRequests {
		return t, fmt.Errorf("it takes %d requests to use it up, and %d are sent at most", l.Requests, maxRequests)
	}
	q, err := v.counted(l, cases)
	if err != nil {
		return t, err
	}
	c, err := v.config(q.login)
	if err != nil {
		return t, err
	}
	t = Trial{Witness: q.words() + ", again and again", Expected: e.String()}
	sent, end := 0, time.Now().Add(maxFlood)
	for ; sent < 2*int(l.Requests)+10; sent++ {
		if a, err := v.expect(q, v.now()); err != nil {
			return t, err
		} else if why := v.blocks(a.Stage, q.door.from); a.Verdict == abi.Deny && why != "" {
			return t, errors.New(why)
		}
		if time.Now().After(end) {
			return t, fmt.Errorf("%d requests within %s did not use it up", sent, maxFlood)
		}
		a, err := try.Exchange(ctx, q.door.to.String(), q.door.from.String(), c, q.method, q.text())
		if err != nil || a.Status == http.StatusTooManyRequests || a.Status == 0 {
			return v.weigh(ctx, t, e, a, err)
		}
	}
	t.Got = fmt.Sprintf("%d requests, and none was refused", sent)
	return t, nil
}

// counted returns a request that a limit counts: one that is allowed and changes nothing, or
// else one that is denied behind the limit.
func (v *verifier) counted(l *api.RateLimit, cases map[string]*found) (*request, error) {
	if len(v.doors) == 0 {
		return nil, errors.New("no network rule lets a connection from this machine in")
	}
	var list []*request
	for _, id := range slices.Sorted(maps.Keys(cases)) {
		list = append(list, cases[id].requests...)
	}
	if q, _ := v.served(&login{how: "without credentials"}); q != nil && v.Deployment.Authorization == nil {
		list = append(list, q)
	}
	for _, want := range []abi.Verdict{abi.Allow, abi.Deny} {
		for _, q := range list {
			a, err := v.expect(q, v.now())
			if err == nil && a.Verdict == want && (want == abi.Deny && a.Stage == abi.StageAuthz || want == abi.Allow && q.safe()) &&
				(len(l.Routes) == 0 || slices.Contains(l.Routes, a.Route)) {
				return q, nil
			}
		}
	}
	return nil, errors.New("no request from here that it counts is allowed, or denied behind it")
}
