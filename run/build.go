package run

import (
	"context"

	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/policy"
)

// Built is the image and the signed program of one level, both in the store.
type Built struct {
	Level   string
	Image   *builder.Image
	Program program.Digest
}

// Build puts the images and the programs of all levels into the store. The
// programs have one revision.
func (m *Machine) Build(ctx context.Context, d *policy.Deployment, progress func(builder.Step)) ([]Built, error) {
	plan, err := m.Plan(ctx, d)
	if err != nil {
		return nil, err
	}
	book, err := openLedger(ctx, m.paths.Data, ledgerName(d.Name()))
	if err != nil {
		return nil, err
	}
	defer book.close()
	revision, err := book.next()
	if err != nil {
		return nil, err
	}
	var list []Built
	for _, l := range plan.Levels {
		img, err := m.store.Build(ctx, l.Build, progress)
		if err != nil {
			return nil, err
		}
		signed, err := program.Sign(l.Program(d, l.Build.ID, revision), m.key)
		if err != nil {
			return nil, err
		}
		digest, err := m.store.PutProgram(signed)
		if err != nil {
			return nil, err
		}
		list = append(list, Built{l.Name, img, digest})
	}
	return list, nil
}
