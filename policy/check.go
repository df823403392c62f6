package policy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
)

// bundle checks what the documents say together, and pairs workloads with the
// policies that select them.
func (p *parsing) bundle() *Bundle {
	p.checkNames()
	for _, w := range p.workloads {
		p.checkWorkload(w)
	}
	for _, s := range p.policies {
		p.checkPolicy(s)
	}
	b := p.pair()
	if len(p.errs) > 0 {
		return nil
	}
	for _, s := range p.policies {
		p.lint(s)
	}
	if !p.untested {
		p.test(b)
	}
	return b
}

// test runs the tests of each policy, and holds it to the coverage that it requires.
func (p *parsing) test(b *Bundle) {
	for _, d := range b.Policies() {
		src := p.sourceOf(d.Policy.SelectorPos.File)
		results, failed := d.RunTests(), false
		for _, r := range results {
			if r.Problem != "" {
				failed = true
				p.errs = append(p.errs, d.testError(r, src))
			}
		}
		if d.Policy.CoverageRequired && !failed {
			for _, r := range d.Coverage(results).Uncovered {
				p.add(src, r.Pos, "add a test with by: "+strconv.Quote(r.ID), "rule %q decides no test, and spec.coverage is Required", r.ID)
			}
		}
	}
}

func (p *parsing) sourceOf(file string) *source {
	for _, s := range p.policies {
		if s.src.name == file {
			return s.src
		}
	}
	return nil
}

func (p *parsing) checkNames() {
	first := make(map[string]api.Pos)
	see := func(d *decoder, kind string, m *api.Metadata) {
		k := kind + " " + m.Tenant + "/" + m.Name
		if at, dup := first[k]; dup && m.Name != "" {
			d.failAt(m.Pos, "give it another name", "%s exists already, at %s", k, at.Short())
		}
		first[k] = m.Pos
	}
	for _, w := range p.workloads {
		see(w.decoder, "workload", &w.Metadata)
	}
	for _, s := range p.policies {
		see(s.decoder, "policy", &s.Metadata)
	}
}

// maxListen bounds the ports of one workload.
const maxListen = 16

func (p *parsing) checkWorkload(w *workload) {
	if len(w.Listen) == 0 && !w.bad["spec.listen"] {
		w.failAt(w.App.Pos, "write listen: [{name: web, port: 8080}]", "spec.listen is empty: nobody could reach the workload")
	}
	if len(w.Listen) > maxListen {
		w.failAt(w.Listen[maxListen].Pos, "split the workload", "a workload listens on at most %d ports", maxListen)
	}
	if impossible(w.Workload) {
		w.failAt(w.NetworkPos, "remove it, or write direct, which has clients' packets routed to it where the tender may", "spec.network: socket is not for a microvm: %s", ownStack)
	}
	p.checkInterface(w)
	names, ports := make(map[string]int), make(map[string]int)
	for _, l := range w.Listen {
		if at, dup := names[l.Name]; dup && l.Name != "" {
			w.failAt(l.Pos, "give each port its own name", "the port name %q is used at line %d", l.Name, at)
		}
		names[l.Name] = l.Pos.Line
		k := fmt.Sprintf("%s:%d", l.Address, l.Port)
		if at, dup := ports[k]; dup && l.Port != 0 {
			w.failAt(l.Pos, "use another port or address", "%s is listened on at line %d", k, at)
		}
		ports[k] = l.Pos.Line
	}
	if value := w.App.Static; value != nil && value.Dir != "" {
		p.checkFolder(w, value.Pos, value.Dir, "spec.app.static.dir", "")
	}
	if x := w.App.Proxy; x != nil {
		p.checkTrust(w, x)
	}
	if h := w.App.Handler; h != nil && h.Module != "" {
		if p.checkFolder(w, h.Pos, h.Module, "spec.app.handler.module", "go.mod") {
			switch rel := filepath.ToSlash(h.Package); {
			case !filepath.IsLocal(filepath.FromSlash(rel)):
				w.failAt(h.Pos, "write a folder below the module, such as . or ./api", "spec.app.handler.package %q is outside the module", h.Package)
			default:
				p.checkFolder(w, h.Pos, filepath.Join(h.Module, h.Package), "spec.app.handler.package", "")
			}
		}
	}
}

// checkFolder reports whether the folder exists and holds the file.
func (p *parsing) checkFolder(w *workload, at api.Pos, dir, what, holds string) bool {
	if w.Dir == "" {
		return true
	}
	full := resolve(w.Dir, dir)
	info, err := os.Stat(full)
	switch {
	case err != nil:
		w.failAt(at, "create it, or write the path relative to "+at.File, "%s: %s", what, fileProblem(dir, err))
		return false
	case !info.IsDir():
		w.failAt(at, "name a folder", "%s: %s is not a folder", what, dir)
		return false
	}
	if holds != "" {
		if _, err := os.Stat(filepath.Join(full, holds)); err != nil {
			w.failAt(at, "run go mod init there, or name the folder that has "+holds, "%s: %s has no %s", what, dir, holds)
			return false
		}
	}
	return true
}

// resolve returns a path as written in a document of the given folder.
func resolve(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

func fileProblem(path string, err error) string {
	var pe *os.PathError
	switch {
	case errors.Is(err, os.ErrNotExist):
		return path + " does not exist"
	case errors.As(err, &pe):
		return path + ": " + pe.Err.Error()
	}
	return path + ": " + err.Error()
}

// A name that decides: "by" in tests, audit records and explanations cite it, so
// that it must be one thing in the whole policy.
func (p *parsing) checkRuleNames(s *securityPolicy) {
	first := make(map[string]api.Pos)
	see := func(name string, at api.Pos) {
		if o, dup := first[name]; dup && name != "" {
			s.failAt(at, "give each rule its own name: decisions cite it", "the rule name %q is used already, at line %d", name, o.Line)
			return
		}
		first[name] = at
	}
	if s.Network != nil {
		for _, r := range s.Network.Ingress {
			see(r.Name, r.Pos)
		}
		for _, r := range s.Network.Egress {
			see(r.Name, r.Pos)
		}
	}
	for _, m := range Methods(s.Authentication) {
		see(m.Name, m.Pos)
	}
	for _, l := range s.RateLimits {
		see(l.Name, l.Pos)
	}
	for _, o := range s.Obligations {
		see(o.Name, o.Pos)
	}
	for _, t := range s.Levels.Triggers {
		see(t.Name, t.Pos)
	}
	if s.auth != nil {
		for _, r := range s.auth.Rules {
			see(r.ID, r.Pos)
		}
	}
}

// Bounds of one policy: far above what people write, and low enough that rules
// can be compared with routes and tests.
const (
	maxRoutes    = 2000
	maxEndpoints = 1000
	maxTests     = 2000
	maxIngress   = 10_000
	maxEgress    = 1000
)

func (p *parsing) checkSizes(s *securityPolicy) {
	tooMany := func(n, limit int, what string) {
		if n > limit {
			s.failAt(s.specPos, "split the workload", "there are %d %s; the limit is %d", n, what, limit)
		}
	}
	tooMany(len(s.Routes), maxRoutes, "routes")
	tooMany(len(s.Endpoints), maxEndpoints, "endpoints")
	tooMany(len(s.Tests), maxTests, "tests")
	if s.Network != nil {
		tooMany(len(s.Network.Ingress), maxIngress, "network rules")
		tooMany(len(s.Network.Egress), maxEgress, "rules for connections out")
	}
}

func (p *parsing) checkPolicy(s *securityPolicy) {
	before := p.count()
	if p.checkSizes(s); p.count() > before {
		p.broken = true
		return
	}
	p.checkLevels(s)
	p.checkNetwork(s)
	p.checkEgress(s)
	p.checkRoutes(s)
	p.checkAuthentication(s)
	p.checkTLS(s)
	p.checkSecrets(s)
	p.checkRateLimits(s)
	p.checkFilter(s)
	p.checkObligations(s)
	p.checkModules(s)
	if s.Authorization != nil {
		if s.Authentication == nil && !s.bad["spec.authentication"] {
			s.failAt(s.Authorization.Pos, "add authentication: {require: true, basic: {...}}", "authorization needs authentication: without it nobody has a name")
		}
		if len(s.Routes) == 0 && !s.bad["spec.routes"] {
			s.failAt(s.Authorization.Pos, "add routes: each request is authorized as the route that it matches", "authorization needs routes")
		}
		p.authorization(s)
	} else if !s.bad["spec.authorization"] {
		if s.Default.Authorization == abi.Deny && !s.bad["spec.default"] {
			at := s.Default.Pos
			if at.Line == 0 {
				at = s.specPos
			}
			s.failAt(at, "add authorization: {schema: ..., cedar: ...}, or default: {authorization: Allow}", "every request would be denied: default.authorization is Deny and there is no authorization")
		}
		for _, a := range s.Attributes {
			s.failAt(a.Pos, "remove it, or add authorization", "attribute %q is read by nothing: the policy has no authorization", a.Name)
		}
		for _, r := range s.Routes {
			if r.Group != "" {
				s.failAt(r.Pos, "remove group, or add authorization", "group %q of route %q is read by nothing: the policy has no authorization", r.Group, r.Name)
			}
		}
	}
	p.checkRuleNames(s)
	p.checkTests(s)
	p.checkAudit(s)
	p.checkSinks(s)
}

func (p *parsing) checkNetwork(s *securityPolicy) {
	ends := make(map[string]api.Pos)
	known := []string{api.AnyEndpoint}
	for _, e := range s.Endpoints {
		if e.Name == api.AnyEndpoint {
			s.failAt(e.Pos, "choose another name", "%q is every source already", e.Name)
		}
		if at, dup := ends[e.Name]; dup && e.Name != "" {
			s.failAt(e.Pos, "give each endpoint its own name", "endpoint %q exists already, at line %d", e.Name, at.Line)
		}
		ends[e.Name] = e.Pos
		known = append(known, e.Name)
	}
	if s.Network == nil {
		if s.Default.Network == abi.Deny && !s.bad["spec.network"] && !s.bad["spec.default"] {
			at := s.Default.Pos
			if at.Line == 0 {
				at = s.specPos
			}
			s.failAt(at, "add network: {ingress: [{name: web-in, action: Allow, from: [any], ports: [{protocol: TCP, port: 8443}]}]}, or default: {network: Allow}",
				"every connection would be denied: default.network is Deny and there are no network rules")
		}
		return
	}
	allows := func(r api.IngressRule) bool { return r.Action == abi.Allow && !Tries(s.SecurityPolicy, r.DryRun) }
	if s.Default.Network == abi.Deny && !slices.ContainsFunc(s.Network.Ingress, allows) && !s.bad["spec.network"] {
		s.failAt(s.Network.Pos, "add a rule with action: Allow", "every connection would be denied: default.network is Deny and no network rule allows any")
	}
	for _, r := range s.Network.Ingress {
		for _, f := range r.From {
			if !slices.Contains(known, f) && !s.bad["spec.endpoints"] {
				s.failAt(r.Pos, didYouMean(f, known), "rule %q: there is no endpoint %q", r.Name, f)
			}
		}
		p.checkRuleLevels(s, r.Pos, r.Name, r.MinLevel, r.MaxLevel)
	}
}

// checkRuleLevels checks the levels that a network rule exists at.
func (p *parsing) checkRuleLevels(s *securityPolicy, at api.Pos, name, minLevel, maxLevel string) {
	lo, hi := 0, len(s.Levels.Names)
	for _, l := range []string{minLevel, maxLevel} {
		if l != "" && !slices.Contains(s.Levels.Names, l) && !s.bad["spec.levels"] {
			s.failAt(at, didYouMean(l, s.Levels.Names), "rule %q: there is no level %q", name, l)
		}
	}
	if minLevel != "" {
		lo = slices.Index(s.Levels.Names, minLevel)
	}
	if maxLevel != "" {
		hi = slices.Index(s.Levels.Names, maxLevel)
	}
	if hi >= 0 && lo > hi {
		s.failAt(at, "swap them", "rule %q: minLevel %s is above maxLevel %s: the rule would never apply", name, minLevel, maxLevel)
	}
}
