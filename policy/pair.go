package policy

import (
	"fmt"
	"strings"

	"lorica.dev/lorica/api"
)

// pair gives each workload the one policy that selects it.
func (p *parsing) pair() *Bundle {
	b := &Bundle{}
	if p.broken {
		return b
	}
	matched := make(map[*securityPolicy]bool)
	connects := make(map[*securityPolicy]bool) // a proxy is selected by it, or records are sent
	for _, w := range p.workloads {
		var by []*securityPolicy
		for _, s := range p.policies {
			if selects(s, w) {
				by = append(by, s)
				matched[s] = true
				connects[s] = connects[s] || w.App.Proxy != nil || len(Collectors(s.SecurityPolicy)) > 0
			}
		}
		switch {
		case len(by) == 0:
			w.failAt(w.Metadata.Pos, "give a policy of the tenant "+w.Metadata.Tenant+" a selector that matches its labels", "no policy selects the workload %s: nothing would be enforced", w.Metadata.Name)
		case len(by) > 1:
			w.failAt(w.Metadata.Pos, "narrow one of the selectors", "two policies select the workload %s: %s at %s and %s at %s", w.Metadata.Name,
				by[0].Metadata.Name, by[0].SelectorPos.Short(), by[1].Metadata.Name, by[1].SelectorPos.Short())
		default:
			p.checkPair(w, by[0])
			b.Deployments = append(b.Deployments, &Deployment{Workload: w.Workload, Policy: by[0].SecurityPolicy, Authorization: by[0].auth})
		}
	}
	for _, s := range p.policies {
		if !matched[s] {
			s.failAt(s.SelectorPos, p.selectorFix(s), "the selector matches no workload")
		} else if s.Network != nil && len(s.Network.Egress) > 0 && !connects[s] {
			s.failAt(s.Network.Egress[0].Pos, "remove network.egress: other images have no way out", "rule %q allows nothing: only a proxy connects, and none is selected by this policy", s.Network.Egress[0].Name)
		}
	}
	if len(p.workloads)+len(p.policies) == 0 {
		p.errs = append(p.errs, &Error{Message: "there is neither a workload nor a policy", Fix: "`lorica init` writes both"})
	}
	return b
}

func selects(s *securityPolicy, w *workload) bool {
	if s.Metadata.Tenant != w.Metadata.Tenant || len(s.Selector) == 0 {
		return false
	}
	for k, v := range s.Selector {
		if w.Metadata.Labels[k] != v {
			return false
		}
	}
	return true
}

// selectorFix says what the nearest workload has instead.
func (p *parsing) selectorFix(s *securityPolicy) string {
	for _, w := range p.workloads {
		if w.Metadata.Tenant != s.Metadata.Tenant {
			continue
		}
		for _, k := range sortedKeys(s.Selector) {
			have, ok := w.Metadata.Labels[k]
			switch {
			case !ok:
				return fmt.Sprintf("workload %s has no label %q; it has %s", w.Metadata.Name, k, strings.Join(sortedKeys(w.Metadata.Labels), ", "))
			case have != s.Selector[k]:
				return fmt.Sprintf("workload %s has %s: %s", w.Metadata.Name, k, have)
			}
		}
	}
	return "add a workload of the tenant " + s.Metadata.Tenant + " with these labels"
}

// checkPair checks what neither half shows alone.
func (p *parsing) checkPair(w *workload, s *securityPolicy) {
	p.unreachable(w, s)
	p.checkProxied(w, s)
	p.checkPairTLS(w, s)
	p.checkPairSinks(w, s)
	if e := tooSmall(w.Workload, s.SecurityPolicy); e != nil {
		s.failAt(e.Pos, e.Fix, "%s", e.Message)
	}
	plain := !secured(s.SecurityPolicy) && !s.bad["spec.tls"]
	for _, l := range w.Listen {
		if l.Address.IsLoopback() {
			continue
		}
		for _, x := range s.Secrets {
			if x.Development != "" {
				w.failAt(l.Pos, "listen on 127.0.0.1, or give the secret a file", "secret %q (%s) is for development on this machine, and %s is open to others", x.Name, x.Pos.Short(), l.Address)
			}
		}
		if a := s.Authentication; a != nil && plain {
			p.inTheClear(w, l, a, s.TLS != nil)
		}
	}
}

// inTheClear reports credentials that cross a network without TLS.
func (p *parsing) inTheClear(w *workload, l api.Listen, a *api.Authentication, written bool) {
	at := l.Address.String()
	if w.Interface != nil {
		at = w.Interface.Name
	}
	fix := "add tls: {mode: SIMPLE, certificate: secret/NAME, key: secret/NAME}, or listen on 127.0.0.1"
	if written {
		fix = "write tls: {mode: SIMPLE, certificate: secret/NAME, key: secret/NAME} in the place of mode: NONE, or listen on 127.0.0.1"
	}
	if a.Basic != nil {
		w.failAt(l.Pos, fix, "passwords of HTTP Basic (%s) would cross the network in the clear on %s", a.Basic.Pos.Short(), at)
	}
	if len(a.JWT) > 0 {
		w.failAt(l.Pos, fix, "bearer tokens (%s) would cross the network in the clear on %s", a.JWT[0].Pos.Short(), at)
	}
}
