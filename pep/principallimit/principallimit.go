// Package principallimit counts requests by principal, once it is known who asks.
// The work is done in pep/ratelimit.
package principallimit

import (
	"lorica.dev/lorica/abi/limit"
	"lorica.dev/lorica/pep/ratelimit"
)

// New returns the module.
func New() *ratelimit.Module { return ratelimit.New(limit.PrincipalName) }
