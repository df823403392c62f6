package authz

import (
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/strictjson"
	"lorica.dev/lorica/pep"
)

// Facts implements pep.Witness. It reads the request again, which says what it said to
// Judge: what most decisions need is not kept for the few that are recorded. The level
// is not among them, which a record has anyway.
func (s *state) Facts(x *pep.Exchange) []audit.Fact {
	route, ok := s.view.Route(x.Route.Name)
	reads := route.Reads &^ s.view.Level
	if !ok || reads == 0 {
		return nil
	}
	w := s.pool.Get().(*workspace)
	defer s.pool.Put(w)
	w.start(route.Name, x)
	list := make([]audit.Fact, 0, bits.OnesCount64(reads))
	list = s.told(list, w, x, reads&s.bodies, s.body)
	list = s.told(list, w, x, reads&s.tokens, s.claims)
	for set := reads &^ (s.bodies | s.tokens); set != 0; set &= set - 1 {
		a := &s.view.Attributes[bits.TrailingZeros64(set)]
		text, found := shown(x, &a.Source)
		list = append(list, fact(a, s.gather(w, x, set&-set), text, found))
	}
	return list
}

// told appends the facts of one document. Where some cannot be had, each is asked for
// alone: the others may be what a rule that denied has read.
func (s *state) told(list []audit.Fact, w *workspace, x *pep.Exchange, reads uint64, get func(*workspace, *pep.Exchange, uint64) *problem) []audit.Fact {
	if reads == 0 {
		return list
	}
	clear(w.found)
	p := get(w, x, reads)
	if p != nil && p.rule != abi.RuleAttribute && !slices.ContainsFunc(w.found, func(v strictjson.Value) bool { return v.Kind != strictjson.Missing }) {
		for set := reads; set != 0; set &= set - 1 { // the document cannot be read: not by asking again either
			list = append(list, fact(&s.view.Attributes[bits.TrailingZeros64(set)], p, "", false))
		}
		return list
	}
	if p != nil && reads&(reads-1) != 0 {
		for set := reads; set != 0; set &= set - 1 {
			list = s.told(list, w, x, set&-set, get)
		}
		return list
	}
	for n, set := 0, reads; set != 0; n, set = n+1, set&(set-1) {
		a := &s.view.Attributes[bits.TrailingZeros64(set)]
		if p != nil {
			return append(list, fact(a, p, "", false))
		}
		v := w.found[n]
		text, found := spelled(a, v), v.Kind != strictjson.Missing
		if a.Source.Kind == authz.SourceClaimHas && len(x.Claims) > 0 {
			has, _ := holds(v, a.Source.Has)
			text, found = strconv.FormatBool(has), true
		}
		list = append(list, fact(a, nil, text, found))
	}
	return list
}

func fact(a *authz.Attribute, p *problem, text string, found bool) audit.Fact {
	switch {
	case p != nil && p.rule == abi.RuleAttribute, p == nil && !found:
		return audit.Fact{Name: a.Name, State: audit.FactAbsent}
	case p != nil:
		return audit.Fact{Name: a.Name, State: audit.FactUnread}
	}
	return audit.Fact{Name: a.Name, Value: text}
}

// shown returns what is said outside of documents.
func shown(x *pep.Exchange, s *authz.Source) (text string, found bool) {
	switch s.Kind {
	case authz.SourceHour, authz.SourceMinute, authz.SourceWeekday:
		return strconv.FormatInt(clock(s.Kind, x.Now.UTC()), 10), true
	case authz.SourcePeer:
		return x.Flow.Src.Unmap().WithZone("").String(), true
	}
	text, found, _ = said(x, s)
	return text, found
}

// spelled returns the text of a JSON value that is one of the attribute; that of a set is
// an array again, without the liberties that writers take.
func spelled(a *authz.Attribute, v strictjson.Value) string {
	if !a.Set {
		return string(numeral(a.Type, v))
	}
	if v.Kind == strictjson.Missing {
		return ""
	}
	var b strings.Builder
	strictjson.Elements(v, func(e strictjson.Value) error {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		if a.Type == authz.TypeLong || a.Type == authz.TypeBool {
			b.Write(e.Text)
		} else {
			quote(&b, numeral(a.Type, e))
		}
		return nil
	})
	return "[" + b.String() + "]"
}

// quote writes a JSON string of what is UTF-8.
func quote(b *strings.Builder, text []byte) {
	b.WriteByte('"')
	for _, c := range text {
		switch {
		case c < ' ':
			b.WriteString(`\u00` + string("0123456789abcdef"[c>>4]) + string("0123456789abcdef"[c&15]))
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			fallthrough
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
}
