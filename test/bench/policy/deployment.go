package main

import (
	"fmt"
	"net/http"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/pep"
	pepauthz "lorica.dev/lorica/pep/authz"
	"lorica.dev/lorica/policy"
)

// compile measures what documents take on the way to a program.
func (m *run) compile(string) error {
	began := used()
	b, err := policy.Load(m.deployment)
	if err != nil {
		return err
	}
	measured("compile/load-ms", float64((used()-began).Microseconds())/1000)
	d := b.Deployments[0]
	var out *compiler.Output
	for round := range m.rounds + 1 { // the first is warm-up
		began, clock := used(), time.Now()
		if out, err = compiler.Compile(d); err != nil {
			return err
		}
		if round > 0 {
			measured("compile/cpu-ms", float64((used()-began).Microseconds())/1000)
			measured("compile/clock-ms", float64(time.Since(clock).Microseconds())/1000)
		}
	}
	p := out.Levels[0].Program(d, program.PlanID{}, 1)
	measured("compile/bytes-a-policy", float64(len(p.Section(authz.Name)))/float64(len(d.Authorization.Rules)))
	measured("compile/bytes-a-rule", float64(len(p.Section(flow.Name)))/float64(len(d.Policy.Network.Ingress)))
	return nil
}

// judge measures the guard of an image: requests of HTTP, with whom the chain before found,
// none of whom was there shortly before.
func (m *run) judge(string) error {
	b, err := policy.Load(m.deployment)
	if err != nil {
		return err
	}
	d := b.Deployments[0]
	out, err := compiler.Compile(d)
	if err != nil {
		return err
	}
	p := out.Levels[0].Program(d, program.PlanID{}, 1)
	guard, err := pepauthz.New().Prepare(&pep.Input{Level: out.Levels[0].Name, Levels: p.Levels, Section: p.Section(authz.Name)})
	if err != nil {
		return err
	}
	r, err := http.NewRequest(http.MethodGet, "http://app/accounts/7", nil)
	if err != nil {
		return err
	}
	list := make([]pep.Exchange, 1<<16)
	for i := range list {
		list[i] = pep.Exchange{Request: r, Now: time.Now(), MaxBody: 1 << 16, Principal: fmt.Sprint("somebody-", i), Groups: []string{fmt.Sprint("g", i%1100)},
			Route: &route.Route{Name: d.Policy.Routes[0].Name, Group: d.Policy.Routes[0].Group}}
	}
	i, allowed := 0, 0
	for range m.rounds {
		c := costs(m.each, func() {
			if guard.Judge(&list[i]).Verdict == abi.Allow {
				allowed++
			}
			i = (i + 1) % len(list)
		})
		measured("judge/ns", c.nanos)
		measured("judge/allocs", c.allocs)
	}
	if allowed == 0 {
		return fmt.Errorf("no request is allowed")
	}
	return nil
}
