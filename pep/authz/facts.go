package authz

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"mime"
	"net/url"
	"strings"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/strictjson"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/authz/cedar"
)

// A problem is why the facts of a request cannot be had. It denies.
type problem struct {
	rule   string
	reason string
}

func missing(a *authz.Attribute) *problem {
	return &problem{abi.RuleAttribute, fmt.Sprintf("attribute %q (%s) has no value", a.Name, origin(a.Source))}
}

func malformed(a *authz.Attribute, err error) *problem {
	return &problem{abi.RuleRequest, fmt.Sprintf("attribute %q (%s): %v", a.Name, origin(a.Source), err)}
}

func origin(s authz.Source) string {
	switch s.Kind {
	case authz.SourceLevel:
		return "level"
	case authz.SourceHour:
		return "clock.hour"
	case authz.SourceMinute:
		return "clock.minute"
	case authz.SourceWeekday:
		return "clock.weekday"
	case authz.SourcePeer:
		return "peer.address"
	case authz.SourceMethod:
		return "request.method"
	case authz.SourceRoute:
		return "route." + s.Arg
	case authz.SourceQuery:
		return "query." + s.Arg
	case authz.SourceHeader:
		return "header." + s.Arg
	case authz.SourceClaim:
		return "jwt:" + s.Arg
	case authz.SourceClaimHas:
		return fmt.Sprintf("jwt:%s has %q", s.Arg, s.Has)
	case authz.SourceSPIFFE:
		return "tls.spiffe"
	case authz.SourceDNS:
		return "tls.dns"
	case authz.SourceSubject:
		return "tls.subject"
	}
	return "body.json:" + s.Arg
}

var errTwice = errors.New("it is given twice")

// gather fills the attributes in the set reads, but for those of the level, and
// appends everything that it learned to key. Values alias key or its earlier
// arrays, which is fine until the next use of key.
func (s *state) gather(w *workspace, x *pep.Exchange, reads uint64) *problem {
	if p := s.body(w, x, reads&s.bodies); p != nil {
		return p
	}
	if p := s.claims(w, x, reads&s.tokens); p != nil {
		return p
	}
	for set := reads &^ (s.view.Level | s.bodies | s.tokens); set != 0; set &= set - 1 {
		i := bits.TrailingZeros64(set)
		a := &s.view.Attributes[i]
		switch a.Source.Kind {
		case authz.SourceHour, authz.SourceMinute, authz.SourceWeekday:
			put(w, i, cedar.Long(clock(a.Source.Kind, x.Now.UTC())))
			continue
		case authz.SourcePeer:
			addr := x.Flow.Src.Unmap().WithZone("")
			if !addr.IsValid() {
				return missing(a)
			}
			b := addr.As16()
			put(w, i, cedar.IP(b[len(b)-addr.BitLen()/8:], addr.BitLen()))
			continue
		}
		raw, found, err := said(x, &a.Source)
		if err != nil {
			return malformed(a, err)
		}
		if p := store(w, i, a, raw, found); p != nil {
			return p
		}
	}
	return nil
}

// said returns what a request says of an attribute in a text of its own.
func said(x *pep.Exchange, s *authz.Source) (raw string, found bool, err error) {
	switch s.Kind {
	case authz.SourceMethod:
		return x.Request.Method, true, nil
	case authz.SourceRoute:
		raw, found = x.Param(s.Arg)
	case authz.SourceQuery:
		return query(x.Request.URL.RawQuery, s.Arg)
	case authz.SourceHeader:
		list := x.Request.Header[s.Arg]
		if found = len(list) > 0; found {
			raw = list[0]
		}
		if len(list) > 1 {
			err = errTwice
		}
	case authz.SourceSPIFFE, authz.SourceDNS, authz.SourceSubject:
		raw = certified(s.Kind, x.Peer)
		found = raw != ""
	default:
		err = errors.New("its source is unknown")
	}
	return raw, found, err
}

// store reads attribute i from text and puts it.
func store[T string | []byte](w *workspace, i int, a *authz.Attribute, raw T, found bool) *problem {
	switch {
	case !found && !a.Optional:
		return missing(a)
	case !found:
		put(w, i, cedar.Value{})
	case a.Type == authz.TypeString:
		w.eval.Set(i, w.eval.Text(note(w, kindText, raw)))
	default:
		v, err := cedar.Parse(a.Type, []byte(raw))
		if err != nil {
			return malformed(a, err)
		}
		put(w, i, v)
	}
	return nil
}

// storeSet reads attribute i from an array, and puts it.
func storeSet(w *workspace, i int, a *authz.Attribute, v strictjson.Value) *problem {
	w.elements = w.elements[:0]
	note(w, kindSet, "")
	err := strictjson.Elements(v, func(x strictjson.Value) error {
		if err := cedar.Fits(a.Type, x.Kind); err != nil {
			return err
		}
		if len(w.elements) == authz.MaxElements {
			return fmt.Errorf("it has more than %d elements", authz.MaxElements)
		}
		if a.Type == authz.TypeString {
			w.elements = append(w.elements, w.eval.Text(note(w, kindText, x.Text)))
			return nil
		}
		e, err := cedar.Parse(a.Type, numeral(a.Type, x))
		if err == nil {
			w.elements, w.key = append(w.elements, e), e.AppendKey(w.key)
		}
		return err
	})
	if err != nil {
		return malformed(a, err)
	}
	note(w, kindEnd, "")
	w.eval.Set(i, w.eval.Elements(w.elements...))
	return nil
}

// numeral returns the text of a JSON value as Cedar writes it: JSON writers leave out the
// places of a decimal number that is whole.
func numeral(t authz.Type, v strictjson.Value) []byte {
	if t == authz.TypeDecimal && v.Kind == strictjson.Number && !bytes.ContainsAny(v.Text, ".eE") {
		return append(v.Text[:len(v.Text):len(v.Text)], ".0"...)
	}
	return v.Text
}

// put stores attribute i, and appends it to the key.
func put(w *workspace, i int, v cedar.Value) {
	w.eval.Set(i, v)
	w.key = v.AppendKey(w.key)
}

// What the key has for texts, and around the elements of a set, where scalars have the
// kind of their value.
const (
	kindText = 255 - iota
	kindSet
	kindEnd
)

// note appends a kind and a text to the key, and returns where that lies there.
func note[T string | []byte](w *workspace, kind uint8, s T) []byte {
	w.key = append(w.key, kind)
	w.key = binary.LittleEndian.AppendUint32(w.key, uint32(len(s)))
	at := len(w.key)
	w.key = append(w.key, s...)
	return w.key[at:]
}

// query finds a parameter in a raw query. Pairs that other parsers might read
// otherwise are errors, whatever their name.
func query(raw, name string) (val string, found bool, err error) {
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		if strings.Contains(pair, ";") {
			return "", false, errors.New("the query holds a \";\"")
		}
		k, v, _ := strings.Cut(pair, "=")
		if k, err = url.QueryUnescape(k); err != nil {
			return "", false, errors.New("the query is not well formed")
		}
		if k != name {
			continue
		}
		if found {
			return "", false, errTwice
		}
		if val, err = url.QueryUnescape(v); err != nil {
			return "", false, errors.New("the query is not well formed")
		}
		found = true
	}
	return val, found, nil
}

// clock reads a time in UTC.
func clock(k authz.SourceKind, t time.Time) int64 {
	switch k {
	case authz.SourceMinute:
		return int64(60*t.Hour() + t.Minute())
	case authz.SourceWeekday:
		return int64(t.Weekday()+6)%7 + 1
	}
	return int64(t.Hour())
}

// certified returns what a client's certificate says; empty: nothing.
func certified(k authz.SourceKind, p *pep.Peer) string {
	switch {
	case p == nil:
	case k == authz.SourceSPIFFE:
		return p.SPIFFE
	case k == authz.SourceSubject:
		return p.Subject
	case len(p.DNS) > 0:
		return p.DNS[0]
	}
	return ""
}

// body fills the attributes that come from a JSON body.
func (s *state) body(w *workspace, x *pep.Exchange, reads uint64) *problem {
	if reads == 0 {
		return nil
	}
	first := &s.view.Attributes[bits.TrailingZeros64(reads)]
	doc, err := x.Body()
	if err == nil && len(doc) > 0 {
		err = isJSON(x)
	}
	if err != nil {
		return malformed(first, err)
	}
	return s.document(w, doc, reads)
}

// claims fills the attributes that come from a verified token. Where there is
// none, another method authenticated the request: all of them are absent.
func (s *state) claims(w *workspace, x *pep.Exchange, reads uint64) *problem {
	if reads == 0 {
		return nil
	}
	return s.document(w, x.Claims, reads)
}

// document fills the attributes that come from one JSON document; all are absent
// where it has no bytes.
func (s *state) document(w *workspace, doc []byte, reads uint64) *problem {
	w.want = w.want[:0]
	for set := reads; set != 0; set &= set - 1 {
		w.want = append(w.want, s.pointers[bits.TrailingZeros64(set)])
	}
	w.found = append(w.found[:0], make([]strictjson.Value, len(w.want))...)
	if len(doc) > 0 {
		if err := strictjson.Find(doc, w.want, w.found); err != nil {
			return malformed(&s.view.Attributes[bits.TrailingZeros64(reads)], err)
		}
	}
	for n, set := 0, reads; set != 0; n, set = n+1, set&(set-1) {
		i := bits.TrailingZeros64(set)
		a, v := &s.view.Attributes[i], w.found[n]
		if a.Source.Kind == authz.SourceClaimHas && len(doc) > 0 {
			has, err := holds(v, a.Source.Has)
			if err != nil {
				return malformed(a, err)
			}
			put(w, i, cedar.Bool(has))
			continue
		}
		if a.Set && v.Kind == strictjson.Array {
			if p := storeSet(w, i, a, v); p != nil {
				return p
			}
			continue
		}
		err := cedar.Fits(a.Type, v.Kind)
		if a.Set && v.Kind != strictjson.Missing {
			err = errors.New("it is not an array")
		}
		if err != nil {
			return malformed(a, err)
		}
		if p := store(w, i, a, numeral(a.Type, v), v.Kind != strictjson.Missing); p != nil {
			return p
		}
	}
	return nil
}

// holds reports whether a claim is the text or an array of strings that holds it.
// A token without the claim does not say so, which is false, not unknown.
func holds(v strictjson.Value, want string) (has bool, err error) {
	wrong := errors.New("it is neither a string nor an array of strings")
	switch v.Kind {
	case strictjson.Missing:
		return false, nil
	case strictjson.String:
		return string(v.Text) == want, nil
	case strictjson.Array:
		err = strictjson.Elements(v, func(e strictjson.Value) error {
			if e.Kind != strictjson.String {
				return wrong
			}
			has = has || string(e.Text) == want
			return nil
		})
		return has, err
	}
	return false, wrong
}

// isJSON refuses a body that an application could read as something else.
func isJSON(x *pep.Exchange) error {
	h := x.Request.Header
	types := h["Content-Type"]
	if len(types) != 1 || len(h["Content-Encoding"]) != 0 {
		return errors.New("the body must be application/json, without a content encoding")
	}
	if types[0] == "application/json" {
		return nil
	}
	t, params, err := mime.ParseMediaType(types[0])
	charset, given := params["charset"]
	if err != nil || t != "application/json" || given && !strings.EqualFold(charset, "utf-8") {
		return errors.New("the body must be application/json in UTF-8")
	}
	return nil
}
