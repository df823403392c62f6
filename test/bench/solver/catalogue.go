package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"lorica.dev/lorica"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/solver"
)

// catalogue asks for the modules of the example, and why there are none once its policy
// forbids what it asks for.
func (m *run) catalogue() error {
	b, err := policy.LoadUntested(filepath.Join(m.root, "examples", "payments"))
	if err != nil {
		return err
	}
	d := b.Deployments[0]
	compiled, err := compiler.Compile(d)
	if err != nil {
		return err
	}
	all, err := catalog.Load(lorica.Source())
	if err != nil {
		return err
	}
	r := solver.Request{Requirements: compiled.Levels[0].Requirements, Target: d.Workload.Target}
	set, err := solver.Solve(context.Background(), all, r)
	if err != nil {
		return err
	}
	if !set.Proven {
		return errors.New("the set is not proven the least")
	}
	forbidden := r
	forbidden.Prohibitions = []catalog.Requirement{r.Requirements[len(r.Requirements)-1]}
	const each = 20
	for range m.rounds {
		var took, why []time.Duration
		for range each {
			start := time.Now()
			if _, err := solver.Solve(context.Background(), all, r); err != nil {
				return err
			}
			took = append(took, time.Since(start))
			start = time.Now()
			_, err := solver.Solve(context.Background(), all, forbidden)
			why = append(why, time.Since(start))
			if !errors.As(err, new(*solver.Unsatisfiable)) {
				return fmt.Errorf("what is required and forbidden has a set: %v", err)
			}
		}
		measured("catalogue/set/ms", middle(took))
		measured("catalogue/explanation/ms", middle(why))
	}
	measured("catalogue/modules", float64(len(set.Modules)))
	return nil
}
