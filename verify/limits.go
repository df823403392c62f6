package verify

import "context"

func (v *verifier) limits(ctx context.Context, cases map[string]*found) {}
