// Package override refuses requests with headers and parameters by which some servers
// take another path or another method than those that were judged.
package override

import (
	"errors"
	"net/http"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/settings"
	"lorica.dev/lorica/pep"
)

// New returns the module.
func New() pep.Guard { return module{} }

type module struct{}

// Prepare reads the settings of one program.
func (module) Prepare(in *pep.Input) (pep.GuardState, error) {
	s, err := settings.Decode(in.Section)
	if err != nil {
		return nil, err
	}
	st := &state{line: s.Line, parameters: s.List("parameters"), status: int(s.Number("status"))}
	for _, name := range s.List("headers") {
		st.headers = append(st.headers, http.CanonicalHeaderKey(name))
	}
	if len(st.headers)+len(st.parameters) == 0 {
		return nil, errors.New("neither headers nor parameters: it would refuse nothing")
	}
	return st, nil
}

// A state is immutable: requests are judged at once.
type state struct {
	line       string // where the module is named, for records
	headers    []string
	parameters []string // of the query
	status     int
}

// Judge denies what it is there for. What it allows, the guards after it may deny.
func (s *state) Judge(x *pep.Exchange) pep.Decision {
	for _, name := range s.headers {
		if _, there := x.Request.Header[name]; there {
			return s.deny("the request has the header " + name)
		}
	}
	query := x.Request.URL.Query()
	for _, name := range s.parameters {
		if query.Has(name) {
			return s.deny("the request has the parameter " + name)
		}
	}
	return pep.Decision{Verdict: abi.Allow}
}

func (s *state) deny(reason string) pep.Decision {
	return pep.Decision{Status: s.status, Rule: abi.Rule{ID: "override", Line: s.line}, Reason: reason}
}

// Steady says that the same head is judged the same way again.
func (s *state) Steady(*pep.Exchange) bool { return true }
