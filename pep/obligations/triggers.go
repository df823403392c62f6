package obligations

import (
	"fmt"
	"hash/maphash"
	"net/http"
	"strings"
	"sync"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/obligation"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/ratelimit"
)

// A watchman is a trigger with its counts, which outlive a change of program as those of
// obligations do: at the level that it raised, a trigger goes on counting.
type watchman struct {
	obligation.Trigger
	*watched
}

type watched struct {
	denials *ratelimit.Table

	mu    sync.Mutex
	quiet time.Time // until when it says nothing
}

// same is what must stay so for counts to be carried over.
type same struct {
	name   string
	on     obligation.On
	key    obligation.Key
	count  uint32
	window time.Duration
}

func newWatched(t *obligation.Trigger) *watched {
	if t.Key == obligation.ByAll {
		return &watched{denials: ratelimit.NewTotal(t.Count, t.Window)}
	}
	return &watched{denials: ratelimit.NewCounter(t.Count, t.Window)}
}

// Raise implements pep.Raiser: it counts a denial, or n of one kind, and returns the
// triggers that fire for it.
func (s *state) Raise(x *pep.Exchange, d pep.Decision, n uint64) (fired []pep.Firing) {
	if len(s.watch) == 0 || d.Verdict == abi.Allow {
		return nil
	}
	kind := s.kind(d)
	switch {
	case kind != obligation.Never:
	case d.Stage == abi.StageFirewall && d.Rule.ID != abi.RuleError:
		kind = obligation.Network
	case d.Status == http.StatusTooManyRequests && d.Rule.ID != abi.RuleError:
		kind = obligation.Any // whoever exhausted the limit: here it is no one's fault
	default:
		return nil
	}
	for i := range s.watch {
		w := &s.watch[i]
		if w.On != kind && w.On != obligation.Any {
			continue
		}
		if key, ok := s.key(w.Key, x); ok && w.due(key, x.Now, n) {
			fired = append(fired, pep.Firing{Trigger: w.Rule.ID, Alert: pep.Decision{Stage: abi.StageObligations, Rule: w.Rule, Reason: w.says()}})
		}
	}
	return fired
}

// key returns what the denials of x are counted under; false: under nothing.
func (s *state) key(k obligation.Key, x *pep.Exchange) (uint64, bool) {
	switch k {
	case obligation.ByAll:
		return 0, true
	case obligation.BySource:
		return s.module.hash(x.Source()), true
	case obligation.ByPrincipal:
		return maphash.String(s.module.seed, x.Principal), x.Principal != ""
	case obligation.ByRoute:
		if x.Route != nil {
			return maphash.String(s.module.seed, x.Route.Name), true
		}
	}
	return 0, false
}

// due counts, and reports whether the trigger fires.
func (w *watchman) due(key uint64, now time.Time, n uint64) bool {
	over := false
	for range min(n, uint64(w.Count)) {
		if over = w.denials.Take(key, now) != 0; over {
			break
		}
	}
	if !over {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if now.Before(w.quiet) {
		return false
	}
	w.quiet = now.Add(w.Quiet())
	return true
}

// says is the reason of a record.
func (w *watchman) says() string {
	from := map[obligation.Key]string{obligation.BySource: " from one source", obligation.ByPrincipal: " of one principal", obligation.ByRoute: " on one route"}[w.Key]
	text := fmt.Sprintf("%d denials (%s) within %v%s: level %s", w.Count, strings.TrimSuffix(w.On.String(), ".deny"), w.Window, from, w.To)
	if w.Hold > 0 {
		return fmt.Sprintf("%s for %v", text, w.Hold)
	}
	return text + " until it is released"
}
