// Package sourcelimit counts requests by source and route, before it is known who
// asks. The work is done in pep/ratelimit.
package sourcelimit

import (
	"lorica.dev/lorica/abi/limit"
	"lorica.dev/lorica/pep/ratelimit"
)

// New returns the module.
func New() *ratelimit.Module { return ratelimit.New(limit.SourceName) }
