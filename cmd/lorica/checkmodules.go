package main

import (
	"errors"

	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/policy"
)

// settled reports manifests of modules of the user's own, in folders that workloads name,
// that are none, and settings that they do not take. What is in the module cache, plan
// looks at.
func settled(b *policy.Bundle) error {
	var all policy.Errors
	for _, d := range b.Deployments {
		for _, named := range d.Workload.Modules {
			if named.Path == "" || d.Workload.Dir == "" {
				continue
			}
			m, err := builder.Manifest(named)
			if err == nil {
				_, err = m.Settings(named.Pos, named.Settings)
			}
			var source *builder.SourceError
			var manifest *catalog.Error
			switch {
			case errors.As(err, &source):
				all = append(all, &policy.Error{Pos: source.Pos, Message: source.Message, Text: b.Line(source.Pos)})
			case errors.As(err, &manifest):
				all = append(all, &policy.Error{Pos: manifest.Pos, Message: manifest.Message, Text: b.Line(manifest.Pos)})
			case err != nil:
				return err
			}
		}
	}
	if len(all) > 0 {
		return all
	}
	return nil
}
